"""A cache of encoder features on disk: with a frozen encoder every epoch after the first costs no encoding.

Features are kept in bfloat16 (1,280 wide at 50 Hz: 128 kB per second of audio), one file per clip, keyed by all that
decides them: the encoder with its weights, dtype and padding, and the audio file with its size and time of change.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechllm_plugin.errors import UserError


class FeatureCache:
    def __init__(self, root: Path, fingerprint: str) -> None:
        """:param fingerprint: of the encoder (`SpeechEncoder.fingerprint`): other encoders never mix."""
        self._root = root / fingerprint
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"dataset.feature_cache: cannot write {root}: {error.strerror}") from error

    def get(self, key: str) -> Tensor | None:
        """Features `[T, C]` in bfloat16, or None."""
        try:
            array = np.load(self._path(key))
        except FileNotFoundError:
            return None
        except (ValueError, EOFError, OSError):
            return None  # not a whole file: encoded and written again
        return torch.from_numpy(array).view(torch.bfloat16)

    def put(self, key: str, features: Tensor) -> Tensor:
        """Stores features; returns them as `get` will, so that a first epoch sees what later ones see."""
        rounded = features.detach().to(torch.bfloat16)
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        # Another process may write the same clip, and any may be killed: only whole files ever get the name.
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, rounded.cpu().view(torch.int16).numpy())
        temporary.replace(path)
        return rounded

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self._root / name[:2] / f"{name}.npy"
