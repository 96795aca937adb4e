"""The encoder of Whisper (arXiv 2212.04356), any size, turbo and distilled ones too: 50 feature vectors a second.

The mel filters and the layers are transformers' own. The checkpoint gives the number of mel bands and the length of the
window. Only the encoder's weights are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from speechllm_kernels.exporting import is_exporting
from torch import Tensor
from transformers import WhisperConfig as HfWhisperConfig
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as HfWhisperEncoder

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.encoders.api import ENCODERS, SpeechEncoder
from speechllm_plugin.pretrained import Source, load_config, load_submodule, source_identity
from speechllm_plugin.pretrained.part import cast
from speechllm_plugin.tensors.masks import length_mask
from speechllm_plugin.tensors.precision import Dtype, part_dtype
from speechllm_plugin.workarounds.transformers_versions import states_of

HOP = 160
"""Samples between two mel frames (10 ms at 16 kHz)."""
SHAPE_FRAMES = 64
"""Mel frames (0.64 s). Unpadded clips are filled up to a multiple of this by frames that attention masks."""
ENGLISH_VOCABULARY = 51864
"""Vocabulary size of the English-only models (tiny.en to medium.en); multilingual ones have 51865 or 51866."""

NumberT = TypeVar("NumberT", int, Tensor)


@dataclass(kw_only=True)
class WhisperConfig:
    path: str = "openai/whisper-large-v3"
    """Hugging Face hub id, or a local directory in the same format."""
    dtype: Dtype = "auto"
    """Precision of weights and features. `auto`: bfloat16 where the machine multiplies it, else float32."""
    pad_to_30s: bool = True
    """Whether every clip is padded with silence to the checkpoint's window, as Whisper was trained. False encodes the
    clip alone, which takes a tenth of the time on a CPU for clips of 3 s. Whisper was not trained on such input, so
    train and decode with the same setting. benchmarks/results/whisper-padding.md measures the difference: tiny.en's own
    decoder, which stops where the silence begins, does not stop on half of the unpadded clips."""
    trim: bool = False
    """Whether the output is cut to the clip's length after encoding with the padding. The remaining vectors are
    unchanged, and the adapter and the LLM read fewer. False keeps all 1500. The vectors of silence show where the
    speech ends, so train and decode with the same setting; without them tiny.en's own decoder does not stop on a
    quarter of the clips (benchmarks/results/whisper-padding.md)."""


class WhisperSpeechEncoder(SpeechEncoder):
    """Whisper's encoder with masked attention, so that clips of any length up to 30 s share a batch."""

    window: Tensor
    mel_filters: Tensor

    frame_rate = SAMPLE_RATE / (2 * HOP)

    def __init__(self, config: WhisperConfig, hf_config: HfWhisperConfig, encoder: HfWhisperEncoder) -> None:
        super().__init__()
        self.config = config
        self.one_size = config.pad_to_30s
        self.dim = hf_config.d_model
        self.max_seconds = hf_config.max_source_positions / self.frame_rate
        # The size of the vocabulary shows an English-only model.
        self.languages = ("en",) if hf_config.vocab_size == ENGLISH_VOCABULARY else None
        self.encoder = encoder
        self.features = WhisperFeatureExtractor(feature_size=hf_config.num_mel_bins)
        self.register_buffer("window", torch.hann_window(self.features.n_fft, dtype=torch.float32), persistent=False)
        # `from_numpy` would ignore the default device under which fairseq2 creates models.
        filters = torch.as_tensor(self.features.mel_filters, dtype=torch.float32)
        self.register_buffer("mel_filters", filters, persistent=False)

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(waveforms.device.type, enabled=False):  # a tuned encoder would follow it
            mels, mel_lengths = self.mel_spectrogram(waveforms, lengths)
        mels = mels.to(self.encoder.conv1.weight.dtype)
        if not self.config.pad_to_30s:
            return self._encode_short(mels, mel_lengths)
        features = self.encoder(mels).last_hidden_state  # (B, mels, 3000) -> (B, 1500, C)
        if not self.config.trim:
            return features, torch.full_like(lengths, features.size(1))
        feature_lengths = (mel_lengths + 1) // 2
        features = features[:, : (_num_frames(waveforms.size(1)) + 1) // 2]
        mask = length_mask(feature_lengths, features.size(1), features.device)
        return features * mask.unsqueeze(-1), feature_lengths

    def mel_spectrogram(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Whisper's log-mel features, as transformers' `WhisperFeatureExtractor` computes them for 30 s.

        :returns: `[B, num_mels, frames]` and the frames that each clip covers, `[B]`. Padded to 30 s the frames
            beyond a clip hold the value of silence; otherwise they are 0, which is the convolution's own padding.
        """
        n_fft = self.features.n_fft
        size = waveforms.size(1)
        # Without the padding, the longest clip's last frame must still see silence after it, as every other clip's
        # does.
        num_samples = self.encoder.max_source_positions * 2 * HOP if self.config.pad_to_30s else size + n_fft + HOP
        waveforms = F.pad(waveforms, (0, num_samples - size))
        if is_exporting():
            power = _power_by_products(waveforms, self.window)
        else:
            power = torch.stft(waveforms, n_fft, HOP, window=self.window, return_complex=True).abs() ** 2
        log_mels = (self.mel_filters.T @ power[..., :-1]).clamp(min=1e-10).log10()
        log_mels = torch.maximum(log_mels, log_mels.amax(dim=(1, 2), keepdim=True) - 8.0)
        log_mels = (log_mels + 4.0) / 4.0
        frames = _num_frames(lengths)
        if not self.config.pad_to_30s:
            log_mels = log_mels[:, :, : _num_frames(size)]
            log_mels = log_mels * length_mask(frames, log_mels.size(2), log_mels.device).unsqueeze(1)
        return log_mels, frames

    def _encode_short(self, mels: Tensor, mel_lengths: Tensor) -> tuple[Tensor, Tensor]:
        encoder, num_frames = self.encoder, (mels.size(2) + 1) // 2
        # There should be few shapes: oneDNN prepares a kernel for each, which takes longer than encoding a short clip.
        padding = torch.sym_min(-mels.size(2) % SHAPE_FRAMES, 2 * encoder.max_source_positions - mels.size(2))
        mels = F.pad(mels, (0, padding))
        hidden = F.gelu(encoder.conv1(mels)) * length_mask(mel_lengths, mels.size(2), mels.device).unsqueeze(1)
        hidden = F.gelu(encoder.conv2(hidden)).transpose(1, 2)  # (B, C, T) -> (B, T/2, C)
        lengths = (mel_lengths + 1) // 2
        mask = length_mask(lengths, hidden.size(1), hidden.device)
        hidden = (hidden + encoder.embed_positions.weight[: hidden.size(1)]) * mask.unsqueeze(-1)
        bias = torch.zeros(mask.shape, dtype=hidden.dtype, device=hidden.device)
        bias = bias.masked_fill(~mask, torch.finfo(hidden.dtype).min)[:, None, None, :]
        bias = bias.expand(-1, 1, hidden.size(1), -1)
        for layer in encoder.layers:
            hidden = states_of(layer(hidden, attention_mask=bias, layer_head_mask=None))
        hidden = encoder.layer_norm(hidden) * mask.unsqueeze(-1)
        return hidden[:, :num_frames], lengths

    def identity(self) -> dict[str, Any]:
        return {"encoder": "whisper", "source": source_identity(self.config.path), **vars(self.config)}


def _power_by_products(waveforms: Tensor, window: Tensor) -> Tensor:
    """The power spectrum of `torch.stft`, `[B, n_fft / 2 + 1, frames]`, by matrix products. The Fourier transforms of
    other runtimes are so inexact that the logarithms of quiet bands would differ."""
    size = len(window)
    angles = 2 * np.pi / size * np.outer(np.arange(size // 2 + 1), np.arange(size))
    waves = torch.tensor(np.concatenate([np.cos(angles), np.sin(angles)]), dtype=torch.float32)
    padded = F.pad(waveforms.unsqueeze(1), (size // 2, size // 2), mode="reflect")
    parts = F.conv1d(padded, (waves * window).unsqueeze(1), stride=HOP)  # (B, 1, samples) -> (B, n_fft + 2, frames)
    return parts.unflatten(1, (2, -1)).square().sum(dim=1)


def _num_frames(samples: NumberT) -> NumberT:
    """`ceil(samples / HOP)` mel frames."""
    # Not `-(-samples // HOP)`: ONNX rounds the quotient of a negative number towards 0.
    return (samples + HOP - 1) // HOP


def check_whisper(config: WhisperConfig) -> HfWhisperConfig:
    """:raises UserError: there is no such checkpoint, or it is not one of Whisper."""
    return load_config(Source.of("encoder", config.path), HfWhisperConfig)


def outline_whisper(config: WhisperConfig, hf_config: HfWhisperConfig, dtype: torch.dtype) -> WhisperSpeechEncoder:
    encoder: Any = HfWhisperEncoder(hf_config)
    return WhisperSpeechEncoder(config, hf_config, cast(encoder, dtype))


def create_whisper(config: WhisperConfig) -> WhisperSpeechEncoder:
    """Loads only the encoder's weights of a Whisper checkpoint."""
    hf_config = check_whisper(config)
    encoder = load_submodule(
        HfWhisperEncoder,
        hf_config,
        Source.of("encoder", config.path),
        prefix="model.encoder.",
        optional_prefix=True,
        dtype=part_dtype(config),
    )
    return WhisperSpeechEncoder(config, hf_config, encoder)


ENCODERS.register(
    "whisper", WhisperConfig, create_whisper,
    outline=outline_whisper, model_types=("whisper",), check=check_whisper,
)  # fmt: skip
