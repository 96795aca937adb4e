"""Finds files of checkpoints on the hub, in its cache or in a local directory, and gives advice where it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from transformers.utils import cached_file

_NO_CONNECTION = ("ConnectionError", "ConnectError", "ConnectTimeout")
"""Errors of the HTTP library below huggingface_hub: requests before version 1, httpx or httpx2 from then on."""


class NoSuchFileError(OSError):
    """A checkpoint lacks a file, or it was not downloaded."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = [name for name in names if not name.endswith(".index.json")]  # an index stands for the weights
        super().__init__(f"found {'neither' if len(self.names) > 1 else 'no'} {' nor '.join(self.names)}")


def find_file(path: str, *names: str) -> Path:
    """The first of these files that a checkpoint has, downloaded if necessary.

    :param path: a hub id or a local directory.
    :raises NoSuchFileError: it has none of the files, or the hub cannot be reached.
    :raises OSError: the hub refuses.
    """
    for name in names:
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        if file is not None:
            return Path(file)
    try:
        cached_file(path, names[-1])  # raises an error, which tells a missing file from an unreachable hub
    except OSError as error:
        raise NoSuchFileError(names) from error
    raise NoSuchFileError(names)


def read_json(file: Path) -> dict[str, Any]:
    """
    :raises OSError: the file is not whole, or is no JSON object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{file} is not whole ({error}); download it again") from error
    if not isinstance(values, dict):
        raise OSError(f"{file} holds a {type(values).__name__}, expected a JSON object")
    return values


def snapshot(path: str) -> Path | None:
    """The folder of a hub id in the hub's cache, named by its commit; None = nothing was downloaded."""
    file = cached_file(path, "config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
    return None if file is None else Path(file).parent


def advice(path: str, error: BaseException) -> str | None:
    """Advice for a failure of the hub; None = another error, which needs no advice."""
    if Path(path).is_dir():
        return None
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, GatedRepoError):  # before its base class, RepositoryNotFoundError
            return (
                f"the model is gated; accept its terms at https://huggingface.co/{path} and log in with "
                "`hf auth login` (or set HF_TOKEN) as the account that was granted access"
            )
        if isinstance(cause, RepositoryNotFoundError):
            return (
                f"the hub has no such model, or it is private (and there is no directory {path}); check the name, or "
                "log in with `hf auth login` as an account that may read it"
            )
    if not any(
        isinstance(cause, (LocalEntryNotFoundError, OfflineModeIsEnabled)) or type(cause).__name__ in _NO_CONNECTION
        for cause in causes
    ):
        return None
    fetch = f"fetch it where there is access with `hf download {path} --local-dir DIRECTORY` and give that directory"
    folder = snapshot(path)
    if folder is None:
        return (
            "the hub cannot be reached and the model was not downloaded before (and there is no directory "
            f"{path}); {fetch}"
        )
    missing = [cause for cause in causes if isinstance(cause, NoSuchFileError)]
    lacks = " or ".join(missing[0].names) if missing else "a file"
    return f"the hub cannot be reached and only part of the model was downloaded: {folder} lacks {lacks}; {fetch}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
