"""Keys and values of positions that a decoder has read, independent of any batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from speechllm_plugin.tensors.copies import on_device

States = list[list[Tensor]]
"""Keys and values `[1, heads, P, dim]` of each layer; [] = no positions."""
Stacked = tuple[DynamicCache | None, Tensor, Tensor]
"""The states of several rows: the cache (None if no row has a position), its mask `[B, P]`, the next position `[B]`."""


def cache_of(states: States) -> DynamicCache:
    cache = DynamicCache()
    for index, (keys, values) in enumerate(states):
        cache.update(keys, values, index)
    return cache


def states_of(cache: DynamicCache) -> States:
    layers: Any = cache.layers  # declared as if a layer could be without keys
    return [[layer.keys, layer.values] for layer in layers]


def length_of(states: States) -> int:
    """Number of positions."""
    return states[0][0].size(2) if states else 0


def cut_states(states: States, length: int) -> States:
    """The states of the first positions."""
    return [[x[:, :, :length] for x in layer] for layer in states]


def join_states(rows: Sequence[States]) -> DynamicCache:
    """A cache of the positions of all rows, one row after the other."""
    return cache_of([[torch.cat(column, dim=2) for column in zip(*layer, strict=True)]
                     for layer in zip(*rows, strict=True)])


def stack_states(rows: Sequence[States], sizes: Sequence[int], device: torch.device) -> Stacked:
    """:param sizes: positions of each row."""
    lengths, most = on_device(list(sizes), device), max(sizes)
    # Padding is on the left, since a sliding window would count padding between a row's states and its next position.
    mask = (torch.arange(most, device=device) >= most - lengths.unsqueeze(1)).long()
    if most == 0:
        return None, mask, lengths
    stacked = []
    for index in range(max(map(len, rows))):
        # A row without positions has no shape, and takes that of another row.
        like = next(states[index] for states in rows if states)
        layer = [states[index] if states else [x[..., :0, :] for x in like] for states in rows]
        stacked.append([
            torch.cat([F.pad(x, (0, 0, most - x.size(2), 0)) for x in column]) for column in zip(*layer, strict=True)
        ])
    return cache_of(stacked), mask, lengths
