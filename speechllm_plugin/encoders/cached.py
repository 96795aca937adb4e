"""Clips through an encoder and its cache."""

from __future__ import annotations

from torch import Tensor

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.encoders.apart import encode_apart
from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.encoders.cache import FeatureCache


def encode_cached(encoder: SpeechEncoder, cache: FeatureCache, batch: SpeechTextBatch) -> list[Tensor]:
    """Encodes the clips that come without features, each on its own, so that what is stored never depends on a batch.

    :returns: features of each clip, `[T, dim]`, in the encoder's precision.
    """
    waveforms = {i: clip.waveform for i, clip in enumerate(batch) if clip.waveform is not None}
    rows = {i: clip.features for i, clip in enumerate(batch) if clip.features is not None}
    if waveforms:
        encoded = encode_apart(encoder, list(waveforms.values()))
        for i, features in zip(waveforms, encoded, strict=True):
            rows[i] = cache.put(batch.clips[i].audio_key, features)
    return [rows[i] for i in range(len(batch))]
