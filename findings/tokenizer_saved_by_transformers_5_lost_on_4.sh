#!/usr/bin/env bash
# A tokenizer that transformers 5.24.0 saves cannot be read by transformers 4.57.6, although nothing in it is new: the
# class of any plain fast tokenizer is written as "TokenizersBackend" into tokenizer_config.json, which 4.57.6 looks up
# by name and refuses ("Tokenizer class TokenizersBackend does not exist or is not currently imported."), while
# tokenizer.json beside it is unchanged. `PreTrainedTokenizerFast.from_pretrained` of 4.57.6 reads the same folder to
# the same ids, so that is what a program that must load models saved by either version can do.
#
# Makes a small tokenizer, saves it by each version into a temporary folder, reads both by 4.57.6, and fails if that
# changes. Seen with Python 3.11 on Linux:
#   saved by 4.57.6: class PreTrainedTokenizerFast, ids [1, 2, 3]
#   saved by 5.24.0: class TokenizersBackend, ValueError, ids [1, 2, 3] as a PreTrainedTokenizerFast
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 4.57.6 5.24.0; do
    python3 -m pip install --quiet --disable-pip-version-check --target "$folder/$version" "transformers==$version"
    PYTHONPATH="$folder/$version" TRANSFORMERS_VERBOSITY=critical python3 - "$folder/saved-$version" <<'PYTHON'
import sys

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "turn": 1, "it": 2, "on": 3}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(sys.argv[1])
PYTHON
done
PYTHONPATH="$folder/4.57.6" TRANSFORMERS_VERBOSITY=critical python3 - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast


def read(folder: Path) -> str:
    kls = json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"]
    try:
        return f"class {kls}, ids {AutoTokenizer.from_pretrained(folder)('turn it on')['input_ids']}"
    except ValueError:
        ids = PreTrainedTokenizerFast.from_pretrained(folder)("turn it on")["input_ids"]
        return f"class {kls}, ValueError, ids {ids} as a PreTrainedTokenizerFast"


expected = {
    "4.57.6": "class PreTrainedTokenizerFast, ids [1, 2, 3]",
    "5.24.0": "class TokenizersBackend, ValueError, ids [1, 2, 3] as a PreTrainedTokenizerFast",
}
found = {version: read(Path(sys.argv[1]) / f"saved-{version}") for version in expected}
for version, seen in found.items():
    print(f"saved by {version}: {seen}")
assert found == expected, "the behaviour has changed"
print("as found: what 5 saves, 4 does not read")
PYTHON
