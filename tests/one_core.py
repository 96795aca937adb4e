"""`speechllm` on one core, where it starts one process in place of two."""

from __future__ import annotations

import os
from collections.abc import Sequence

from speechllm_tools import cli


def main(argv: Sequence[str]) -> int:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return cli.main(argv)
