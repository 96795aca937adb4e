"""The contract of a speech encoder."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.encoders.passes import encode_in_passes
from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained.part import PretrainedPart
from speechllm_plugin.registry import ENCODERS as ENCODERS


class SpeechEncoder(PretrainedPart):
    """A speech encoder.

    Frozen, it computes in the dtype of its own weights whatever autocast is on, so that training, evaluation and
    transcription see the same features. It is batch-invariant: a clip gives the same features alone and in a batch,
    up to the rounding of its precision.
    """

    dim: int
    """Width of a feature vector."""
    frame_rate: float
    """Feature vectors per second of audio (Hz)."""
    max_seconds: float | None
    """Longest clip taken, in seconds; None = any."""
    languages: Collection[str] | None = None
    """Codes of the languages of its pretraining, where they are few; None = many, or unknown."""
    one_size: bool = False
    """Whether every clip is padded to the same length, whatever its batch; else a batch is padded to its longest clip,
    and encoded in several passes where that saves enough padding."""

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes a batch.

        :param waveforms: `[B, samples]`, float32 at 16 kHz, zeros beyond each length.
        :param lengths: `[B]`, int64, samples of each clip, on the host.
        :returns: features `[B, T, dim]`, zeros beyond each length, and their lengths `[B]`, int64, on the host, as all
            that follows from lengths.
        :raises UserError: `samples` is more than the encoder takes.
        """
        seconds = waveforms.size(1) / SAMPLE_RATE
        if self.max_seconds is not None and seconds > self.max_seconds:
            raise UserError(too_long(seconds, self.max_seconds))
        gradients = torch.set_grad_enabled(self.tuned and torch.is_grad_enabled())
        with gradients, self.precision(waveforms.device.type):
            if self.one_size:
                return self.encode(waveforms, lengths)
            return encode_in_passes(self.encode, waveforms, lengths)

    @abstractmethod
    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """One pass over padded clips: `forward`, without its checks and precision."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that decides the features of a clip (weights, dtype, padding): the key of a feature cache."""

    @property
    def feature_dtype(self) -> torch.dtype:
        """The dtype of the features, which is that of the weights."""
        return next(self.parameters()).dtype

    def fingerprint(self) -> str:
        """A short hash of `identity`."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True, default=str).encode()).hexdigest()[:16]


def too_long(seconds: float, max_seconds: float) -> str:
    """The error for a clip beyond the window: clips are never truncated silently."""
    return (
        f"the audio lasts {seconds:.2f} s, expected at most {max_seconds:g} s, the window of the encoder; cut it into "
        "segments (path:start:length)"
    )
