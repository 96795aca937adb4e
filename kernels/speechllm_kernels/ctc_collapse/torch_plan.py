"""Second step in PyTorch's own operators: the runs of equal labels, the slot of each, and the span of each slot."""

from __future__ import annotations

import torch
from torch import Tensor

from speechllm_kernels._common import valid_frames
from speechllm_kernels.ctc_collapse.steps import Plan


def plan(frame_labels: Tensor, lengths: Tensor, blank: int, keep_blank: bool, width: int) -> Plan:
    """:param width: most slots of a row: the cap, or T."""
    batch, frames = frame_labels.shape
    valid = valid_frames(lengths, frames)
    changes = frame_labels[:, 1:] != frame_labels[:, :-1]
    edge = valid.new_ones((batch, 1))
    kept = valid if keep_blank else valid & (frame_labels != blank)
    begins = kept & torch.cat([edge, changes], dim=1)
    finishes = kept & torch.cat([changes | ~valid[:, 1:], edge], dim=1)

    run = begins.cumsum(dim=1) - 1
    runs = run[:, -1:] + 1
    counts = runs.clamp(max=width)

    def slot_of(run: Tensor) -> Tensor:
        return torch.div(run * counts, runs.clamp(min=1), rounding_mode="floor")

    slot = slot_of(run)
    first = begins & (slot != slot_of(run - 1))
    last = finishes & (slot != slot_of(run + 1))
    frame = torch.arange(frames, device=lengths.device).expand(batch, frames)

    def by_slot(chosen: Tensor, values: Tensor, empty: int) -> Tensor:
        # One frame writes each slot; the others write into a column that is cut off.
        out = values.new_full((batch, width + 1), empty)
        return out.scatter_(1, slot.where(chosen, width), values)[:, :width].contiguous()

    return Plan(
        slots=slot.where(kept, -1).int(),
        labels=by_slot(first, frame_labels, -1),
        starts=by_slot(first, frame, 0),
        ends=by_slot(last, frame + 1, 0),
        counts=counts.squeeze(1),
        merged=(runs - counts).squeeze(1),
    )
