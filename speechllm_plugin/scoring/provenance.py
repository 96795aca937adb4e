"""Everything that a score depends on, so that it can be reproduced."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.columns.content import read_content
from speechllm_plugin.files.hashes import sha256_of
from speechllm_plugin.files.remote import Location, RemoteFile

# Packages that a score depends on, from sound to tokens to scores.
_PACKAGES = (
    "speechllm-plugin",
    "torch",
    "fairseq2",
    "transformers",
    "numpy",
    "soundfile",
    "soxr",
    "av",
    "jiwer",
    "sacrebleu",
    "whisper-normalizer",
)


def provenance(config: object, checkpoint: Path | None, manifests: Sequence[Location]) -> dict[str, Any]:
    """Versions, commit, configuration, and hashes of checkpoint and data, ready for JSON.

    It names no places on the machine except the paths that the user gave. The name of the normaliser and the signatures
    are part of the scores themselves.

    :param config: the run's configuration, usually a dataclass.
    :param checkpoint: a file, or a folder whose files are all hashed, each by its name inside.
    :raises UserError: the checkpoint or a manifest is missing or cannot be read.
    """
    return {
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "git": _git(),
        "config": _plain(config),
        "checkpoint": None if checkpoint is None else {"path": str(checkpoint), "sha256": _hash_all(checkpoint)},
        "manifests": [{"path": str(path), "sha256": _sha256(path)} for path in manifests],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    # The source tree was never installed.
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit and state of the checkout that this file is part of; ``None`` for an installed copy."""
    here = Path(__file__)
    # A copy in a virtual environment inside another project's checkout belongs to no commit of that project.
    if _run_git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = _run_git(here.parent, "rev-parse", "HEAD")
    status = _run_git(here.parent, "status", "--porcelain", "--untracked-files=no")
    if commit is None or status is None:
        return None
    return {"commit": commit.strip(), "dirty": bool(status.strip())}


def _run_git(folder: Path, *arguments: str) -> str | None:
    # A process that a git hook started inherits variables that point to the hook's repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            env=environment,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _hash_all(checkpoint: Path) -> dict[str, str]:
    if not checkpoint.is_dir():
        return {checkpoint.name: _sha256(checkpoint)}
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    if not files:
        raise UserError(f"{checkpoint}: found an empty folder, expected a checkpoint")
    return {path.relative_to(checkpoint).as_posix(): _sha256(path) for path in files}


def _sha256(path: Location) -> str:
    if isinstance(path, RemoteFile):
        return hashlib.sha256(read_content(path)).hexdigest()
    return sha256_of(path)


def _plain(value: object) -> Any:
    """Turns a configuration into plain values for JSON, the same on every machine."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, Enum):
        return value.name
    # The default string of an object or function has an address, which differs from run to run.
    text = str(value)
    return type(value).__qualname__ if " at 0x" in text else text
