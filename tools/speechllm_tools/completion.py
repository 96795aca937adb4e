"""Markers in folders of generated files: the fingerprint of the preparation, and that the folder is complete."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically

_STARTED, _COMPLETED = ".started", ".completed"


def fingerprint(parameters: Any) -> str:
    """SHA-256 of JSON-serialisable ``parameters``: preparations with the same fingerprint make the same files."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()


def is_completed(folder: Path, mark: str) -> bool:
    """Whether ``folder`` was finished by a preparation whose fingerprint is ``mark``."""
    return _read(folder / _COMPLETED) == mark


def begin(folder: Path, mark: str) -> None:
    """Make ``folder`` ready for the preparation ``mark``: only files of this preparation are kept.

    :raises UserError: the folder has files that no preparation has made.
    """
    started = _read(folder / _STARTED)
    if started is None and folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: found files from elsewhere, expected an empty folder or none")
    if started is not None and started != mark:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / _STARTED, mark)


def complete(folder: Path, mark: str) -> None:
    """Marks ``folder`` as complete; called last."""
    write_text_atomically(folder / _COMPLETED, mark)


def _read(marker: Path) -> str | None:
    return marker.read_text(encoding="utf-8") if marker.is_file() else None
