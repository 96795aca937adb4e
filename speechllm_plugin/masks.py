"""Lengths to masks."""

from __future__ import annotations

import torch
from torch import Tensor


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """`[B]` -> bool `[B, size]`, True where a position belongs to its row."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def zero_padding(seqs: Tensor, lengths: Tensor) -> Tensor:
    """`[B, T, C]` with what lies beyond each length set to 0, whatever it held (NaN included)."""
    return seqs.masked_fill(~length_mask(lengths, seqs.size(1)).unsqueeze(-1), 0.0)
