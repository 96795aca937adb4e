"""Lets directories of runs contain a space, a plus sign or an accented letter."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from fairseq2.error import NotSupportedError
from fairseq2.utils.uri import Uri


def read_local_paths_whole() -> None:
    """Undoes the escapes that fairseq2 0.8 puts into a checkpoint's path and reads back as they stand.

    Otherwise `evaluate` of a run in `my runs/` ends in a stack trace that misses `my%20runs/`.
    """
    Uri.to_path = _to_path  # type: ignore[assignment,method-assign]


def _to_path(uri: Uri) -> Path:
    if uri.scheme != "file":
        raise NotSupportedError("`to_path()` is only supported for URIs with file scheme.")
    return Path(unquote(uri.path))
