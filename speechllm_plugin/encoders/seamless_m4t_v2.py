"""The speech encoder of SeamlessM4T v2 (arXiv 2312.05187): a Conformer and an adaptor, 6.25 feature vectors a second.

The layers are transformers' own, but padding does not reach the frames of a clip. Only the speech encoder's weights are
read from the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import SeamlessM4Tv2Config as HfSeamlessConfig
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import (
    SeamlessM4Tv2SpeechEncoder as HfSeamlessSpeechEncoder,
)

from speechllm_plugin.encoders.api import ENCODERS, SpeechEncoder
from speechllm_plugin.encoders.conformer import adapter_layer, use_relative_key_attention
from speechllm_plugin.encoders.fbank import StackedFbank, check_input_dim
from speechllm_plugin.pretrained import Source, load_config, load_submodule, source_identity
from speechllm_plugin.pretrained.part import cast
from speechllm_plugin.tensors.masks import length_mask, zero_padding
from speechllm_plugin.tensors.precision import Dtype, part_dtype
from speechllm_plugin.workarounds.transformers_versions import states_of


@dataclass(kw_only=True)
class SeamlessM4Tv2Config:
    path: str = "facebook/seamless-m4t-v2-large"
    """Hugging Face hub id, or a local directory in the same format."""
    dtype: Dtype = "auto"
    """Precision of weights and features; the filter bank is computed in float64. `auto`: bfloat16 where the machine
    multiplies it, else float32."""


class SeamlessM4Tv2SpeechEncoder(SpeechEncoder):
    """SeamlessM4T v2's speech encoder, for clips of any length."""

    max_seconds = None

    def __init__(
        self, config: SeamlessM4Tv2Config, hf_config: HfSeamlessConfig, encoder: HfSeamlessSpeechEncoder
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        use_relative_key_attention(encoder.encoder.layers)
        self.fbank = StackedFbank()
        self.dim = hf_config.hidden_size
        layers = [] if encoder.adapter is None else list(encoder.adapter.layers)
        self.frame_rate = StackedFbank.frame_rate / hf_config.adaptor_stride ** len(layers)

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        encoder = self.encoder
        fbank, lengths = self.fbank(waveforms, lengths)
        hidden = encoder.feature_projection(fbank.to(encoder.inner_layer_norm.weight.dtype))
        mask = length_mask(lengths, hidden.size(1), hidden.device)
        hidden = states_of(encoder.encoder(hidden, attention_mask=mask.long()))  # (B, T, C), 50 Hz
        hidden = hidden + 0.5 * encoder.intermediate_ffn(hidden)
        for layer in [] if encoder.adapter is None else encoder.adapter.layers:
            hidden, lengths = adapter_layer(layer, hidden, lengths)
        return zero_padding(encoder.inner_layer_norm(hidden), lengths), lengths

    def identity(self) -> dict[str, Any]:
        return {"encoder": "seamless_m4t_v2", "source": source_identity(self.config.path), **vars(self.config)}


def check_seamless_m4t_v2(config: SeamlessM4Tv2Config) -> HfSeamlessConfig:
    """:raises UserError: there is no such checkpoint, or it is not one of SeamlessM4T v2."""
    source = Source.of("encoder", config.path)
    hf_config = load_config(source, HfSeamlessConfig)
    check_input_dim(hf_config.feature_projection_input_dim, source)
    return hf_config


def outline_seamless_m4t_v2(
    config: SeamlessM4Tv2Config, hf_config: HfSeamlessConfig, dtype: torch.dtype
) -> SeamlessM4Tv2SpeechEncoder:
    encoder: Any = HfSeamlessSpeechEncoder(hf_config)
    return SeamlessM4Tv2SpeechEncoder(config, hf_config, cast(encoder, dtype))


def create_seamless_m4t_v2(config: SeamlessM4Tv2Config) -> SeamlessM4Tv2SpeechEncoder:
    """Loads only the speech encoder's weights of a SeamlessM4T v2 checkpoint."""
    hf_config = check_seamless_m4t_v2(config)
    encoder = load_submodule(
        HfSeamlessSpeechEncoder,
        hf_config,
        Source.of("encoder", config.path),
        prefix="speech_encoder.",
        dtype=part_dtype(config),
    )
    return SeamlessM4Tv2SpeechEncoder(config, hf_config, encoder)


ENCODERS.register(
    "seamless_m4t_v2", SeamlessM4Tv2Config, create_seamless_m4t_v2,
    outline=outline_seamless_m4t_v2, model_types=("seamless_m4t_v2",), check=check_seamless_m4t_v2,
)  # fmt: skip
