"""A cache of encoder features on disk: with a frozen encoder every epoch after the first costs no encoding.

Features are kept to the bit, in the encoder's precision, in packs of 1 GB (1,280 wide at 50 Hz they take 128 kB per
second of audio in bfloat16, 256 kB in float32). The key is everything that decides them: the encoder with its weights,
dtype and padding, and the audio file with its size and time of change.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechllm_plugin.encoders.packs import Packs
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.log import log

_SHAPE = struct.Struct("<QQ")
"""Header of an entry: frames and width of the features that follow."""
IDENTITY = "encoder.json"
"""Name of the file that describes the encoder of a folder's features."""


class FeatureCache:
    def __init__(self, root: Path, fingerprint: str, dtype: torch.dtype, *, max_bytes: float | None = None) -> None:
        """
        :param fingerprint: the encoder's (`SpeechEncoder.fingerprint`); features of different encoders never mix.
        :param dtype: dtype of the encoder's features.
        :param max_bytes: limit for the features of all encoders. To stay below it, features of other encoders are
            deleted, least recently used first. This encoder's features are kept, since every epoch reads them; when
            they reach the limit, no more are added.
        """
        self._root = root
        self._folder = root / fingerprint
        self._dtype = dtype
        self._max_bytes = max_bytes
        self._full = False
        self._uncounted = 0
        """Bytes that this process has added since it last counted those of all processes."""
        try:
            self._packs = Packs(self._folder, str(dtype).removeprefix("torch."))
            os.utime(self._folder)  # when it was last used
            self._bytes = self._make_room() if max_bytes is not None else 0.0
        except OSError as error:
            raise UserError(f"dataset.feature_cache: cannot write {root}: {error.strerror}") from error

    @property
    def full(self) -> bool:
        """Whether no more is added; the log has said so."""
        return self._full

    def describe(self, identity: Mapping[str, Any]) -> None:
        """Writes a description of the encoder beside its features, for people.

        :param identity: the encoder's (`SpeechEncoder.identity`).
        """
        file = self._folder / IDENTITY
        # If the disk has no space for it, adding the first clip will report that.
        if not file.is_file():
            with suppress(UserError):
                write_text_atomically(file, json.dumps(identity, indent=1, default=str) + "\n")

    def __contains__(self, key: str) -> bool:
        """Whether the index has the key; the features themselves are not read."""
        return key in self._packs

    def get(self, key: str) -> Tensor | None:
        """Features `[T, C]`, or None."""
        data = self._packs.get(key)
        if data is None:
            return None
        frames, width = _SHAPE.unpack_from(data)
        if frames * width == 0:
            return torch.empty(frames, width, dtype=self._dtype)
        return torch.frombuffer(data, dtype=self._dtype, offset=_SHAPE.size).view(frames, width)

    def put(self, key: str, features: Tensor) -> Tensor:
        """`put_all` of one clip."""
        return self.put_all([key], [features])[0]

    def put_all(self, keys: Sequence[str], features: Sequence[Tensor]) -> list[Tensor]:
        """Stores the features of clips and returns them as `get` will, so that the first epoch sees the same as later
        ones. From a GPU they are copied together, so that the host waits for it once.

        :param features: `[T, C]` of each clip.
        """
        kept = [one.detach().to(self._dtype) for one in features]
        if self._full:
            return kept
        rows = torch.cat(kept).cpu().split(list(map(len, kept)))
        for key, row in zip(keys, rows, strict=True):
            if not self._full:
                self._add(key, _SHAPE.pack(*row.shape) + row.contiguous().view(torch.uint8).numpy().tobytes())
        return kept

    def _add(self, key: str, data: bytes) -> None:
        if self._max_bytes is not None and not self._has_room(len(data)):
            self._stop(f"it has the {self._max_bytes / 1e9:g} GB that it may have (dataset.feature_cache_gb)")
            return
        try:
            self._packs.put(key, data)
        except OSError as error:
            self._stop(str(error.strerror))
            return
        self._uncounted += len(data)

    def _has_room(self, size: int) -> bool:
        assert self._max_bytes is not None
        if self._uncounted > self._max_bytes / 100:  # the other processes have added about as much
            self._bytes, self._uncounted = sum(_sizes(self._root)), 0
        return self._bytes + self._uncounted + size <= self._max_bytes

    def _stop(self, reason: str) -> None:
        self._full = True
        log.warning(
            "Feature cache {}: no more is added, {}. It has {:,} clips; others are encoded in every epoch.",
            self._root, reason, len(self._packs),
        )  # fmt: skip

    def _make_room(self) -> float:
        """Deletes features of other encoders until the rest is within the limit.

        :returns: the bytes that are left.
        """
        assert self._max_bytes is not None
        sizes = {folder: sum(_sizes(folder)) for folder in self._root.iterdir() if folder.is_dir()}
        total = sum(sizes.values())
        for folder in sorted(sizes, key=lambda folder: folder.stat().st_mtime):
            if total <= self._max_bytes:
                break
            if folder != self._folder:
                shutil.rmtree(folder, ignore_errors=True)
                total -= sizes[folder]
                log.info("Feature cache {}: {:.1f} GB of another encoder are deleted.", self._root, sizes[folder] / 1e9)
        return total


def _sizes(folder: Path) -> Iterator[int]:
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # deleted meanwhile
                yield os.stat(os.path.join(parent, name)).st_size
