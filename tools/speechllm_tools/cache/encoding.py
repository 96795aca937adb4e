"""Encodes a task's clips into the cache, in one process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from speechllm_recipes.speech_llm.common import feature_cache
from speechllm_recipes.speech_llm.config import SpeechDatasetSection
from torch import Tensor

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader, TrainerBatch
from speechllm_plugin.datasets.utterances import Utterances
from speechllm_plugin.encoders.api import ENCODERS, SpeechEncoder
from speechllm_plugin.encoders.feature_cache import FeatureCache
from speechllm_plugin.encoders.features import ClipFeatures
from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import freeze


@dataclass(frozen=True)
class Encoding:
    """The encoder and the cache that a process opens once and keeps."""

    encoder: str
    """Registered name of the encoder."""
    config: str
    """The encoder's configuration as JSON."""
    folder: str
    """Folder of the cache."""
    limit_gb: float | None
    threads: int
    """Threads of a process without a GPU."""


@dataclass(frozen=True)
class EncodeTask:
    encoding: Encoding
    options: ReadOptions
    """How the training run reads the clips."""
    epochs: int
    """How often the clips are read: once for each variant of a clip."""
    utterances: Utterances


@dataclass
class Encoded:
    """What became of the clips of a task, or of several."""

    made_by: str = ""
    """Encoder, precision and device, for people."""
    clips: int = 0
    """Clips that were encoded."""
    seconds: float = 0.0
    """Audio of these clips."""
    size: int = 0
    """Bytes of their features."""
    there: int = 0
    """Clips that the cache had already."""
    seconds_there: float = 0.0
    """Audio of these clips."""
    left_out: int = 0
    """Clips that cannot be read."""
    full: bool = False
    """Whether the cache takes no more."""

    def add(self, other: Encoded) -> None:
        self.made_by = other.made_by
        self.clips += other.clips
        self.seconds += other.seconds
        self.size += other.size
        self.there += other.there
        self.seconds_there += other.seconds_there
        self.left_out += other.left_out
        self.full = self.full or other.full


class _Indexed(FeatureCache):
    """A cache that tells whether it has features without reading them."""

    _THERE = torch.empty(0, 0)

    def get(self, key: str) -> Tensor | None:
        return self._THERE if key in self else None


def encode_clips(task: EncodeTask) -> Encoded:
    """
    :raises UserError: the encoder or the cache cannot be opened, or a clip cannot be read and must not be left out.
    """
    encoder, cache = _open(task.encoding)
    encoded = Encoded(_described(encoder))
    try:
        reader = SpeechTextReader(task.utterances, task.options, find_features=cache.get)
    except UserError:
        # With `skip` the only error is that none of the clips can be read.
        if task.options.on_error != "skip":
            raise
        encoded.left_out = len(task.utterances)
        return encoded
    for _ in range(task.epochs):
        for batches in _steps(reader, task.options):
            for batch in batches:
                if batch.counted:
                    encoded.add(_encode(batch, encoder, cache))
            if cache.full:
                encoded.full = True
                return encoded
        reader.reset()
    encoded.left_out = len(reader.skipped)
    return encoded


def _steps(reader: SpeechTextReader, options: ReadOptions) -> Iterator[list[TrainerBatch]]:
    """The steps of an epoch; with `skip` they also end when no clip can be read."""
    steps = iter(reader)
    while True:
        try:
            yield next(steps)
        except StopIteration:
            return
        except UserError:
            if options.on_error != "skip":
                raise
            return


def _described(encoder: SpeechEncoder) -> str:
    dtype = str(encoder.feature_dtype).removeprefix("torch.")
    return f"{encoder.identity()['encoder']} in {dtype} on {_device_of(encoder).type}"


def _device_of(encoder: SpeechEncoder) -> torch.device:
    return next(encoder.parameters()).device


def _encode(batch: SpeechTextBatch, encoder: SpeechEncoder, cache: FeatureCache) -> Encoded:
    """Adds the features of a batch to the cache, except those that it has."""
    new = SpeechTextBatch([clip for clip in batch if clip.features is None])
    encoded = Encoded(_described(encoder), clips=len(new), seconds=sum(new.seconds), there=len(batch) - len(new))
    encoded.seconds_there = sum(batch.seconds) - encoded.seconds
    if len(new):
        new.to(_device_of(encoder))
        rows = ClipFeatures(encoder).through(cache, new)
        encoded.size = sum(row.numel() * row.element_size() for row in rows)
    return encoded


@lru_cache(maxsize=1)
def _open(encoding: Encoding) -> tuple[SpeechEncoder, FeatureCache]:
    """Opens the encoder as training does, on the GPU that this process sees, if any."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(encoding.threads)
    config = ENCODERS.config(encoding.encoder, json.loads(encoding.config))
    with device:
        encoder = freeze(ENCODERS.get(encoding.encoder).build(config))
    section = SpeechDatasetSection(feature_cache=encoding.folder, feature_cache_gb=encoding.limit_gb)
    cache = feature_cache(section, encoder, kls=_Indexed)
    assert cache is not None
    return encoder, cache
