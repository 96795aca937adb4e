"""Runs `speechllm` where fairseq2 cannot be imported, as on a machine that it is not built for."""

from __future__ import annotations

import sys
from typing import Any


def hide() -> None:
    """From imports, and from those who ask whether it is there."""
    for finder in list(sys.meta_path):
        find: Any = finder.find_spec

        def find_others(name: str, path: Any = None, target: Any = None, find: Any = find) -> Any:
            return None if name.partition(".")[0] in ("fairseq2", "fairseq2n") else find(name, path, target)

        finder.find_spec = find_others  # type: ignore[method-assign]


hide()

if __name__ == "__main__":
    from speechllm_tools.cli import main

    sys.exit(main())
