"""Finds the weights of a COMET model: by path, or by name in the local cache or on the hub."""

from __future__ import annotations

import os
from pathlib import Path

from speechllm_plugin.errors import UserError


def find_checkpoint(model: str) -> Path:
    """
    :param model: a name on the hub, a folder with `checkpoints/model.ckpt`, or a checkpoint.
    :raises UserError: there is no such model, here or on the hub.
    """
    path = Path(model)
    if path.is_file():
        return path
    folder = path if path.is_dir() else _snapshot(model, "--comet")
    checkpoint = folder / "checkpoints" / "model.ckpt"
    if not checkpoint.is_file():
        raise UserError(f"--comet: found no checkpoints/model.ckpt in {folder}, expected a COMET model")
    return checkpoint


def find_encoder(name: str) -> Path:
    """The folder with configuration and tokenizer of an encoder; its weights are in COMET's checkpoint.

    :raises UserError: there is no such folder, and the hub does not have it.
    """
    path = Path(name)
    return path if path.is_dir() else _snapshot(name, "--encoder", ["*.json", "*.model"])


def _snapshot(name: str, option: str, patterns: list[str] | None = None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        try:
            return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        except LocalEntryNotFoundError:
            if offline:
                raise
            return Path(snapshot_download(name, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{option}: found no folder, no local copy and no download of {name!r} ({reason}), expected one of them"
        ) from None
