"""CTC collapse as one product of matrices, [B, U, T] by [B, T, C]: for `torch.export`, whose graphs hold no loops and
no operators of ours. It takes memory for each pair of a vector and a frame."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from speechllm_kernels._common import accumulable, longest, valid_frames
from speechllm_kernels.ctc_collapse.output import CtcCollapseOutput


def collapse(
    h: Tensor,
    lengths: Tensor,
    *,
    logits: Tensor | None,
    labels: Tensor | None,
    blank: int,
    keep_blank: bool,
    weighting: str,
    detach: bool,
    max_output_length: int | None,
) -> CtcCollapseOutput:
    """See `speechllm_kernels.ctc_collapse.ctc_collapse`."""
    frames = h.shape[1]
    valid = valid_frames(lengths, frames)
    if logits is not None:
        chosen = logits.argmax(dim=2)
    else:
        assert labels is not None
        chosen = labels.long()
    chosen = chosen.masked_fill(~valid, -1)
    kept = valid if keep_blank else valid & (chosen != blank)
    begins = kept & (chosen != pad(chosen[:, :-1], (1, 0), value=-2))
    runs = begins.long().cumsum(1)  # the number of a frame's run, from 1
    counts = runs[:, -1]
    slots, given = runs - 1, counts
    if max_output_length is not None:
        given = counts.clamp(max=max_output_length)
        # Runs beyond the limit share its vectors, as evenly as they go.
        merged = slots * given.unsqueeze(1) // counts.clamp(min=1).unsqueeze(1)
        slots = torch.where((counts > given).unsqueeze(1), merged, slots)
    width = longest(counts, frames) if max_output_length is None else min(max_output_length, frames)

    vector = torch.arange(width, device=h.device)
    members = kept.unsqueeze(1) & (slots.unsqueeze(1) == vector.unsqueeze(1))  # (B, U, T)
    weights = members.to(accumulable(h).dtype)
    if weighting != "mean" and logits is not None:
        weights = weights * _scores(logits.detach() if detach else logits, chosen, weighting).unsqueeze(1)
    total = weights.sum(dim=2, keepdim=True)
    sums = weights @ accumulable(h).masked_fill(~valid.unsqueeze(2), 0.0)
    used = vector < given.unsqueeze(1)
    frame = torch.arange(frames, device=h.device)
    starts = torch.where(members, frame, frames).amin(dim=2).masked_fill(~used, 0)
    ends = torch.where(members, frame + 1, 0).amax(dim=2)
    return CtcCollapseOutput(
        seqs=(sums / torch.where(total > 0, total, 1)).to(h.dtype),
        lengths=given,
        labels=chosen.gather(1, starts).masked_fill(~used, -1),
        starts=starts,
        ends=ends,
        merged=counts - given,
        frame_labels=chosen,
    )


def _scores(logits: Tensor, labels: Tensor, weighting: str) -> Tensor:
    """The unnormalised weights of frames, [B, T]; of padding any number."""
    # Padding has the label -1, and may hold NaN.
    logits = accumulable(logits).masked_fill((labels < 0).unsqueeze(2), 0.0)
    probability = logits.softmax(dim=2).gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
    return probability.exp() if weighting == "softmax" else probability
