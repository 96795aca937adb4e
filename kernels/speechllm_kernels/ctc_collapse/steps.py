"""What each step gives, the same from every backend: B rows, T frames, U slots.

`empty` allocates it: for the fake kernels, which need only shapes, and for Triton's, which fill it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class FrameLabels(NamedTuple):
    """
    Of the first step, with m the maximum of a frame's logits. Where no probabilities are asked for, all but the labels
    have no elements.
    """

    labels: Tensor
    """[B, T] int64: the argmax of the logits; -1 in the padding."""
    probability: Tensor
    """[B, T] float32 (float64 for float64 logits), as are the next two: the label's probability p; 0 in the padding."""
    rest: Tensor
    """[B, T]: sum of exp(logit - m) over all other labels, so that 1 - p = rest x p, also where p rounds to 1; 0 in the
    padding."""
    sums: Tensor
    """[B, T]: logarithm of the sum of exp(logit); 0 in the padding."""

    @classmethod
    def empty(cls, logits: Tensor, probabilities: bool) -> FrameLabels:
        shape = logits.shape[:2]
        probability, rest, sums = (
            logits.new_empty(shape if probabilities else 0, dtype=accumulator(logits)) for _ in range(3)
        )
        return cls(logits.new_empty(shape, dtype=torch.int64), probability, rest, sums)


class Plan(NamedTuple):
    """Of the second step: where each slot's frames are. U is the most slots that a row may have."""

    slots: Tensor
    """[B, T] int32: the slot of each frame; -1 for a frame in none."""
    labels: Tensor
    """[B, U] int64: label of the slot's first run; -1 for unused slots."""
    starts: Tensor
    """[B, U] int64: first frame; 0 for unused slots."""
    ends: Tensor
    """[B, U] int64: frame after the last one; 0 for unused slots."""
    counts: Tensor
    """[B] int64: slots in use."""
    merged: Tensor
    """[B] int64: runs that U had no slot of their own for."""

    @classmethod
    def empty(cls, frame_labels: Tensor, width: int) -> Plan:
        batch, frames = frame_labels.shape
        slots = frame_labels.new_empty((batch, frames), dtype=torch.int32)
        labels, starts, ends = (frame_labels.new_empty((batch, width)) for _ in range(3))
        return cls(slots, labels, starts, ends, frame_labels.new_empty(batch), frame_labels.new_empty(batch))


class Pooled(NamedTuple):
    """Of the third step."""

    seqs: Tensor
    """[B, U, C] in the dtype of h: weighted means; exactly 0 in unused slots."""
    norms: Tensor
    """[B, U] float32 (float64 for a float64 h): sum of the scores of each slot."""

    @classmethod
    def empty(cls, h: Tensor, width: int) -> Pooled:
        batch, _, channels = h.shape
        return cls(h.new_empty((batch, width, channels)), h.new_empty((batch, width), dtype=accumulator(h)))


class PoolGradients(NamedTuple):
    """Of the third step's inputs. The one not asked for has no elements."""

    h: Tensor
    """[B, T, C]"""
    scores: Tensor
    """[B, T] in the dtype of the norms."""

    @classmethod
    def empty(cls, h: Tensor, norms: Tensor, for_h: bool, for_scores: bool) -> PoolGradients:
        return cls(h.new_empty(h.shape if for_h else 0), norms.new_empty(h.shape[:2] if for_scores else 0))


def accumulator(tensor: Tensor) -> torch.dtype:
    """What sums of the tensor's numbers are taken in."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
