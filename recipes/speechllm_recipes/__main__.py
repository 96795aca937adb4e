"""`python -m speechllm_recipes ...` is `fairseq2 ...` without the script."""

import sys

from speechllm_recipes.cli import main

sys.exit(main())
