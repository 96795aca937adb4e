"""Masks made from lengths, and joins of neighbouring frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechllm_plugin.tensors.copies import on_device


def length_mask(lengths: Tensor, size: int, device: torch.device | None = None) -> Tensor:
    """`[B]` -> bool `[B, size]`, True where a position belongs to its row.

    :param device: device of the mask; None = that of the lengths.
    """
    device = lengths.device if device is None else device
    return torch.arange(size, device=device) < on_device(lengths, device).unsqueeze(1)


def stack_frames(seqs: Tensor, lengths: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Joins each `size` neighbours: `[B, T, C]` -> `[B, ceil(T / size), size * C]`, with lengths.

    The last vector of a row is filled up with zeros.
    """
    seqs = zero_padding(seqs, lengths)
    seqs = F.pad(seqs, (0, 0, 0, -seqs.size(1) % size))
    return seqs.unflatten(1, (-1, size)).flatten(2), (lengths + size - 1) // size


def zero_padding(seqs: Tensor, lengths: Tensor) -> Tensor:
    """`[B, T, C]` with everything beyond each length set to 0, even NaN."""
    return seqs.masked_fill(~length_mask(lengths, seqs.size(1), seqs.device).unsqueeze(-1), 0.0)
