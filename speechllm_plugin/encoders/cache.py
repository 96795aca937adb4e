"""A cache of encoder features on disk: with a frozen encoder every epoch after the first costs no encoding.

Features are kept as they were computed, to the bit, in the encoder's precision (1,280 wide at 50 Hz: 128 kB per second
of audio in bfloat16, 256 kB in float32), one file per clip, keyed by all that decides them: the encoder with its
weights, dtype and padding, and the audio file with its size and time of change.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechllm_plugin.errors import UserError

_STORED = {torch.bfloat16: torch.int16}
"""What holds the bits of a dtype that numpy lacks."""


class FeatureCache:
    def __init__(self, root: Path, fingerprint: str, dtype: torch.dtype) -> None:
        """
        :param fingerprint: of the encoder (`SpeechEncoder.fingerprint`): other encoders never mix.
        :param dtype: of its features.
        """
        self._root = root / fingerprint
        self._dtype = dtype
        self._stored = _STORED.get(dtype, dtype)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"dataset.feature_cache: cannot write {root}: {error.strerror}") from error

    def get(self, key: str) -> Tensor | None:
        """Features `[T, C]`, or None."""
        try:
            features = torch.from_numpy(np.load(self._path(key)))
        except FileNotFoundError:
            return None
        except (ValueError, EOFError, OSError, TypeError):
            return None  # not a whole file: encoded and written again
        # Earlier versions rounded the features of any encoder to bfloat16: those of others are encoded again.
        return features.view(self._dtype) if features.dtype == self._stored else None

    def put(self, key: str, features: Tensor) -> Tensor:
        """Stores features; returns them as `get` will, so that a first epoch sees what later ones see."""
        features = features.detach().to(self._dtype)
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        # Another process may write the same clip, and any may be killed: only whole files ever get the name.
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, features.cpu().view(self._stored).numpy())
        temporary.replace(path)
        return features

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self._root / name[:2] / f"{name}.npy"
