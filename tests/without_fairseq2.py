"""Imports as on a machine that fairseq2 is not built for. As a program: `speechllm` there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any


def hide() -> None:
    """Hides it from imports, and from those who ask whether it is there."""
    for finder in list(sys.meta_path):
        find: Any = finder.find_spec

        def find_others(name: str, path: Any = None, target: Any = None, find: Any = find) -> Any:
            return None if name.partition(".")[0] in ("fairseq2", "fairseq2n") else find(name, path, target)

        finder.find_spec = find_others  # type: ignore[method-assign]


def main(argv: Sequence[str]) -> int:
    """Imports modules."""
    for name in argv:
        import_module(name)
    return 0


if __name__ == "__main__":
    hide()
    from speechllm_tools.cli import main as speechllm

    sys.exit(speechllm())
