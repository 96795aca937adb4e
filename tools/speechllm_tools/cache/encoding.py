"""A hundred clips through the encoder, in one process, into the cache."""

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
    """What a process opens once, and keeps."""

    encoder: str
    """Its registered name."""
    config: str
    """Its configuration as JSON."""
    folder: str
    """Of the cache."""
    limit_gb: float | None
    threads: int
    """Of a process without a GPU."""


@dataclass(frozen=True)
class EncodeTask:
    encoding: Encoding
    options: ReadOptions
    """As the training run reads them."""
    epochs: int
    """How often they are read: once for each variant of a clip."""
    utterances: Utterances


@dataclass
class Encoded:
    """What became of the clips of a task, or of several."""

    made_by: str = ""
    """Encoder, precision and device, for people."""
    clips: int = 0
    """Clips that were encoded."""
    seconds: float = 0.0
    """Their audio."""
    size: int = 0
    """Their features, in bytes."""
    there: int = 0
    """Clips that the cache had already."""
    seconds_there: float = 0.0
    """Their audio."""
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
    """Answers whether it has features without reading them."""

    _THERE = torch.empty(0, 0)

    def get(self, key: str) -> Tensor | None:
        return self._THERE if key in self else None


def encode_clips(task: EncodeTask) -> Encoded:
    """
    :raises UserError: the encoder or the cache cannot be opened, or a clip cannot be read and is not to be left out.
    """
    encoder, cache = _open(task.encoding)
    encoded = Encoded(_described(encoder))
    try:
        reader = SpeechTextReader(task.utterances, task.options, find_features=cache.get)
    except UserError:
        # With `skip` it has one thing to say: that it can read none of them.
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
    """Of an epoch, to its end, or until no clip can be read where those are to be left out."""
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
    """Puts the features of a batch into the cache, but for those that it has."""
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
    """The encoder on the GPU that this process sees, if any, as training loads it."""
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
