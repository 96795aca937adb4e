"""wav2vec 2.0 (arXiv 2006.11477), HuBERT (2106.07447) and WavLM (2110.13900), any size: 50 feature vectors a second.

Their input is the waveform itself. The layers are transformers' own, but padding does not reach the frames of a clip. A
fine-tuned model's head is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from speechllm_kernels.exporting import is_exporting
from torch import Tensor, nn
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)
from transformers import Wav2Vec2Config as HfWav2Vec2Config

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.encoders.api import ENCODERS, SpeechEncoder
from speechllm_plugin.encoders.conformer import key_bias
from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import Source, config_values, load_preprocessor, load_submodule, source_identity
from speechllm_plugin.pretrained.part import cast
from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.tensors.masks import length_mask, zero_padding
from speechllm_plugin.tensors.precision import Dtype, part_dtype
from speechllm_plugin.workarounds.transformers_versions import states_of

FAMILIES: dict[str, tuple[Any, Any]] = {
    "wav2vec2": (HfWav2Vec2Config, Wav2Vec2Model),
    "hubert": (HubertConfig, HubertModel),
    "wavlm": (WavLMConfig, WavLMModel),
}
"""transformers' classes by the `model_type` of a checkpoint."""


@dataclass(kw_only=True)
class Wav2Vec2Config:
    path: str = "facebook/wav2vec2-large-960h-lv60-self"
    """Hugging Face hub id, or a local directory in the same format, of a wav2vec 2.0, HuBERT or WavLM model."""
    dtype: Dtype = "auto"
    """Precision of weights and features. `auto`: bfloat16 where the machine multiplies it, else float32."""
    layer: int | None = None
    """Layer whose output is taken, counted from 1; later layers do not run. In self-supervised models the middle layers
    tell more about the words than the last one. None = the last layer."""
    normalize: bool | None = None
    """Whether each clip is scaled to zero mean and unit variance. None = as the checkpoint's preprocessor_config.json
    says."""


class Wav2Vec2SpeechEncoder(SpeechEncoder):
    """wav2vec 2.0, HuBERT or WavLM, for clips of any length."""

    max_seconds = None

    def __init__(self, config: Wav2Vec2Config, hf_config: Any, model: Any, normalize: bool, final_norm: bool) -> None:
        """
        :param normalize: whether each clip is scaled to zero mean and unit variance.
        :param final_norm: whether a norm follows the last layer.
        """
        super().__init__()
        self.config = config
        self.model = model
        self.dim = hf_config.hidden_size
        self.frame_rate = SAMPLE_RATE / math.prod(hf_config.conv_stride)
        self._convs = list(zip(hf_config.conv_kernel, hf_config.conv_stride, strict=True))
        self._normalize = normalize
        self._norm_first = not hf_config.do_stable_layer_norm
        self._final_norm = final_norm
        if not self._norm_first and not final_norm:
            model.encoder.layer_norm = nn.Identity()  # a weight that never runs would never get its gradient
        self.positions = WavLMPositions(model.encoder.layers[0].attention) if hf_config.model_type == "wavlm" else None

    @property
    def min_samples(self) -> int:
        """Samples that one feature vector depends on (25 ms): a shorter clip is padded with silence."""
        samples = 1
        for kernel, stride in reversed(self._convs):
            samples = (samples - 1) * stride + kernel
        return samples

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        model = self.model
        waveforms = self._normalised(waveforms, lengths) if self._normalize else waveforms
        waveforms = F.pad(waveforms, (0, max(0, self.min_samples - waveforms.size(1))))
        states, lengths = self._convolve(waveforms.to(model.dtype), lengths.clamp(min=self.min_samples))
        states = model.feature_projection(states.transpose(1, 2))  # (B, C, T) -> (B, T, C)
        hidden = zero_padding(states_of(states), lengths)
        return zero_padding(self._transform(hidden, lengths), lengths), lengths

    @staticmethod
    def _normalised(waveforms: Tensor, lengths: Tensor) -> Tensor:
        mask = length_mask(lengths, waveforms.size(1), waveforms.device)
        counts = on_device(lengths, waveforms.device).unsqueeze(1)
        centred = (waveforms - waveforms.sum(dim=1, keepdim=True) / counts) * mask
        return centred / (centred.square().sum(dim=1, keepdim=True) / counts + 1e-7).sqrt()

    def _convolve(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, samples]` -> `[B, C, T]`. The convolutions have no padding, so that a frame depends on its own clip
        only."""
        states = waveforms.unsqueeze(1)
        for layer, (kernel, stride) in zip(self.model.feature_extractor.conv_layers, self._convs, strict=True):
            lengths = (lengths - kernel) // stride + 1
            if isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm):
                states = layer.activation(norm_over_time(layer.layer_norm, layer.conv(states), lengths))
            else:
                states = layer(states)
        return states, lengths

    def _transform(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, C]`."""
        encoder = self.model.encoder
        hidden = hidden + self._position_features(hidden, lengths)
        if self._norm_first:
            hidden = encoder.layer_norm(hidden)
        if self.positions is not None:
            mask = length_mask(lengths, hidden.size(1), hidden.device).long()
            bias = self.positions(encoder.layers[0].attention, hidden)
            for layer in encoder.layers:
                hidden = states_of(layer(hidden, attention_mask=mask, position_bias=bias))
        else:
            keys = key_bias(lengths, hidden).expand(-1, -1, hidden.size(1), -1)
            for layer in encoder.layers:
                hidden = states_of(layer(hidden, attention_mask=keys))
        return encoder.layer_norm(hidden) if self._final_norm else hidden

    def _position_features(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        embed = self.model.encoder.pos_conv_embed
        states = hidden.transpose(1, 2)
        if (norm := getattr(embed, "batch_norm", None)) is not None:
            # mHuBERT's norm turns the zeros beyond a clip's end into other numbers, which the convolution would read.
            states = zero_padding(norm(states).transpose(1, 2), lengths).transpose(1, 2)
        return embed.activation(embed.padding(embed.conv(states))).transpose(1, 2)

    def identity(self) -> dict[str, Any]:
        return {
            "encoder": "wav2vec2",
            "source": source_identity(self.config.path),
            **vars(self.config),
            "normalize": self._normalize,
        }


class WavLMPositions(nn.Module):
    """WavLM's bias of attention by distance, on the device.

    transformers computes its T x T logarithms on the CPU for every batch, and the GPU waits for them.
    """

    buckets: Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.max_distance = int(attention.max_distance)
        # Computed on the CPU, as transformers does, since the logarithm of another device may round to another bucket.
        # The dtype is explicit, since `arange` would give floats under fairseq2's default.
        distances = torch.arange(-self.max_distance, self.max_distance + 1, dtype=torch.long, device="cpu")
        buckets = attention._relative_positions_bucket(distances).to(torch.get_default_device())
        self.register_buffer("buckets", buckets, persistent=False)

    def forward(self, attention: Any, hidden: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B * heads, T, T]`, as the layers take it."""
        batch, size, _ = hidden.shape
        steps = torch.arange(size, device=hidden.device)
        distances = (steps - steps.unsqueeze(1)).clamp(-self.max_distance, self.max_distance)
        table = attention.rel_attn_embed(self.buckets)  # (distances, heads)
        bias = table[distances + self.max_distance].permute(2, 0, 1)  # (T, T, heads) -> (heads, T, T)
        return bias.repeat(batch, 1, 1)


def norm_over_time(norm: nn.GroupNorm, states: Tensor, lengths: Tensor) -> Tensor:
    """Instance norm over each clip's own frames, `[B, C, T]`.

    Padding does not count towards a clip's mean and variance. Clips are normalised one by one, since a clip of 30 s
    takes 0.2 GB here in float32; an exported graph takes any number of clips and has no loop.
    """
    mask, counts = length_mask(lengths, states.size(2), states.device), on_device(lengths, states.device)
    if is_exporting():
        return _norm_over_time(norm, states, mask.unsqueeze(1), counts[:, None, None])
    rows = zip(states, mask, counts, strict=True)
    return torch.stack([_norm_over_time(norm, row, row_mask, count) for row, row_mask, count in rows])


def _norm_over_time(norm: nn.GroupNorm, states: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    """Normalises one clip, `[C, T]`, or several, `[B, C, T]`."""
    weight, bias = norm.weight.float().unsqueeze(1), norm.bias.float().unsqueeze(1)
    values = states.float()
    centred = (values - (values * mask).sum(dim=-1, keepdim=True) / counts) * mask
    variance = centred.square().sum(dim=-1, keepdim=True) / counts
    return (centred * (weight * (variance + norm.eps).rsqrt()) + bias).to(states.dtype)


def check_wav2vec2(config: Wav2Vec2Config) -> Any:
    """
    :returns: transformers' configuration of the layers that run.
    :raises UserError: there is no such checkpoint, it is of another family, or it has fewer layers.
    """
    source = Source.of("encoder", config.path)
    values = config_values(source)
    if values["model_type"] not in FAMILIES:
        raise UserError(f"{source} holds a model of type {values['model_type']!r}, expected one of "
                        f"{', '.join(FAMILIES)}")
    hf_config = FAMILIES[values["model_type"]][0].from_dict(values)
    if getattr(hf_config, "add_adapter", False):
        raise UserError(f"{source} shortens its output by layers of its own (add_adapter), expected a "
                        "model without")
    num_layers = hf_config.num_hidden_layers
    if not 1 <= (num_layers if config.layer is None else config.layer) <= num_layers:
        raise UserError(
            f"encoder.config.layer: found {config.layer}, expected 1 to {num_layers}, the layers of {config.path}"
        )
    return hf_config


def _take_layers(config: Wav2Vec2Config, hf_config: Any) -> bool:
    """Removes from `hf_config` the parts that do not run.

    :returns: whether there is a norm after the last layer.
    """
    num_layers = hf_config.num_hidden_layers
    hf_config.num_hidden_layers = num_layers if config.layer is None else config.layer
    # The vector that masks spans in pretraining is not part of the encoder.
    hf_config.mask_time_prob = hf_config.mask_feature_prob = 0.0
    return hf_config.do_stable_layer_norm and hf_config.num_hidden_layers == num_layers


def outline_wav2vec2(config: Wav2Vec2Config, hf_config: Any, dtype: torch.dtype) -> Wav2Vec2SpeechEncoder:
    final_norm = _take_layers(config, hf_config)
    model = cast(FAMILIES[hf_config.model_type][1](hf_config), dtype)
    return Wav2Vec2SpeechEncoder(config, hf_config, model, config.normalize is not False, final_norm)


def create_wav2vec2(config: Wav2Vec2Config) -> Wav2Vec2SpeechEncoder:
    source = Source.of("encoder", config.path)
    hf_config = check_wav2vec2(config)
    num_layers, model_kls = hf_config.num_hidden_layers, FAMILIES[hf_config.model_type][1]
    final_norm = _take_layers(config, hf_config)
    model = load_submodule(
        model_kls,
        hf_config,
        source,
        prefix=f"{model_kls.base_model_prefix}.",
        optional_prefix=True,
        ignored=(
            "masked_spec_embed",
            *(f"encoder.layers.{unused}." for unused in range(hf_config.num_hidden_layers, num_layers)),
        ),
        dtype=part_dtype(config),
    )
    normalize = config.normalize
    if normalize is None:
        normalize = bool(load_preprocessor(source).get("do_normalize", True))
    return Wav2Vec2SpeechEncoder(config, hf_config, model, normalize, final_norm)


ENCODERS.register(
    "wav2vec2", Wav2Vec2Config, create_wav2vec2,
    outline=outline_wav2vec2, model_types=tuple(FAMILIES), check=check_wav2vec2,
)  # fmt: skip
