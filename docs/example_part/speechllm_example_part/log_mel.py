"""`log_mel`: log-mel energies in the place of a pretrained encoder, 100 vectors a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.encoders.api import ENCODERS, SpeechEncoder
from speechllm_plugin.tensors.masks import length_mask

WINDOW, HOP = 400, 160
"""Samples: 25 ms, every 10 ms."""


@dataclass(kw_only=True)
class LogMelConfig:
    num_mels: int = 40
    """Bands from 0 to 8 kHz."""


class LogMelEncoder(SpeechEncoder):
    window: Tensor
    filters: Tensor

    frame_rate = SAMPLE_RATE / HOP
    max_seconds = None

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.num_mels
        self.register_buffer("window", torch.hann_window(WINDOW, dtype=torch.float32))
        filters = mel_filter_bank(WINDOW // 2 + 1, config.num_mels, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE)
        self.register_buffer("filters", torch.as_tensor(filters, dtype=torch.float32))

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        # A begun frame counts, and sees silence behind the clip as it would alone.
        padded = F.pad(waveforms, (0, WINDOW))
        power = torch.stft(padded, WINDOW, HOP, window=self.window, center=False, return_complex=True).abs() ** 2
        frames = -(-lengths // HOP)
        mels = (power.transpose(1, 2) @ self.filters).clamp(min=1e-10).log10()  # (B, T, bins) -> (B, T, mels)
        mels = mels[:, : -(-waveforms.size(1) // HOP)]
        return mels * length_mask(frames, mels.size(1), mels.device).unsqueeze(-1), frames

    def identity(self) -> dict[str, Any]:
        return {"encoder": "log_mel", **vars(self.config)}


ENCODERS.register("log_mel", LogMelConfig, LogMelEncoder)
