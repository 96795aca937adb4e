"""Shared by the Conformers of SeamlessM4T v2 and w2v-BERT 2.0: relative attention, and layers that shorten."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechllm_plugin.tensors.masks import length_mask, zero_padding


class RelativeKeyAttention(nn.Module):
    """Self-attention whose scores depend on distance, clipped (arXiv 1803.02155): the weights, names and results of
    transformers' `SeamlessM4Tv2ConformerSelfAttention` and `Wav2Vec2BertSelfAttention`.

    transformers gathers a key for each pair of positions, `[T, T, C / heads]`: 0.3 GB a layer for 30 s in bfloat16.
    Here each query is multiplied once with the key of each distance, and the products are gathered: 631 ms in place of
    993 for two clips of 10 s on a CPU core.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.left = attention.left_max_position_embeddings
        self.right = attention.right_max_position_embeddings
        self.linear_q = attention.linear_q
        self.linear_k = attention.linear_k
        self.linear_v = attention.linear_v
        self.linear_out = attention.linear_out
        self.distance_embedding = attention.distance_embedding
        self.dropout = attention.dropout

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None, **unused: object) -> tuple[Tensor, None]:
        """
        :param hidden_states: `[B, T, C]`.
        :param attention_mask: `[B, 1, T, T]`, added to the scores, or True where attended to; None = no mask.
        :returns: `[B, T, C]`, and no weights.
        """
        batch, size, _ = hidden_states.shape
        query, key, value = (
            linear(hidden_states).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, T, C) -> (B, heads, T, D)
            for linear in (self.linear_q, self.linear_k, self.linear_v)
        )
        steps = torch.arange(size, device=hidden_states.device)
        distances = (steps - steps.unsqueeze(1)).clamp(-self.left, self.right) + self.left
        by_distance = query @ self.distance_embedding.weight.T / math.sqrt(query.size(-1))  # (B, heads, T, distances)
        bias = by_distance.gather(-1, distances.expand(batch, self.num_heads, size, size))
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            bias = bias.masked_fill(~attention_mask, torch.finfo(bias.dtype).min)
        elif attention_mask is not None:
            bias = bias + attention_mask
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=self.dropout.p if self.training else 0.0
        )
        return self.linear_out(attended.transpose(1, 2).flatten(2)), None


def use_relative_key_attention(layers: nn.ModuleList) -> None:
    """Puts `RelativeKeyAttention` into the Conformer layers whose positions are of that kind."""
    for layer in layers:
        attention: Any = layer.self_attn
        if attention.position_embeddings_type == "relative_key":
            layer.self_attn = RelativeKeyAttention(attention)


def adapter_layer(layer: Any, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """transformers' `SeamlessM4Tv2ConformerAdapterLayer` or `Wav2Vec2BertAdapterLayer` on a padded batch.

    In transformers, padding reaches a clip in two ways: layer norms turn zeros into their bias, which the strided
    convolutions read beyond a clip's end; and every layer masks by the lengths before the first layer.

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
    """`[B, 1, 1, T]`, to be added to attention scores: it masks the keys beyond each length."""
    mask = length_mask(lengths, states.size(1), states.device)
    bias = torch.zeros(mask.shape, dtype=states.dtype, device=states.device)
    return bias.masked_fill(~mask, torch.finfo(states.dtype).min)[:, None, None, :]
