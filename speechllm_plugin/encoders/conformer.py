"""What the Conformers of SeamlessM4T v2 and w2v-BERT 2.0 share: the layers that shorten their output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from speechllm_plugin.masks import length_mask, zero_padding


def adapter_layer(layer: Any, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """transformers' `SeamlessM4Tv2ConformerAdapterLayer` or `Wav2Vec2BertAdapterLayer` on a padded batch.

    Theirs lets two things of the padding into a clip: its layer norms turn zeros into their bias, which the strided
    convolutions then see beyond a clip's end, and of several layers each masks by the lengths before the first.

    :param hidden: `[B, T, C]`.
    :returns: `[B, T', C]` and the lengths `[B]`.
    """

    def shorten(norm: Any, conv: Any) -> Tensor:
        states = zero_padding(norm(hidden), lengths)
        return layer.activation(conv(states.transpose(1, 2))).transpose(1, 2)  # (B, T, C) -> (B, T', C)

    residual = shorten(layer.residual_layer_norm, layer.residual_conv)
    states = shorten(layer.self_attn_layer_norm, layer.self_attn_conv)
    lengths = (lengths + 2 * (layer.stride // 2) - layer.kernel_size) // layer.stride + 1
    attended, _ = layer.self_attn(states, attention_mask=key_bias(lengths, states))
    states = residual + layer.self_attn_dropout(attended)
    return states + layer.ffn(layer.ffn_layer_norm(states)), lengths


def key_bias(lengths: Tensor, states: Tensor) -> Tensor:
    """`[B, 1, 1, T]`, to be added to attention scores: keys beyond each length count for nothing."""
    mask = length_mask(lengths, states.size(1))
    bias = torch.zeros(mask.shape, dtype=states.dtype, device=states.device)
    return bias.masked_fill(~mask, torch.finfo(states.dtype).min)[:, None, None, :]
