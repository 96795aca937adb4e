"""Third step in PyTorch's own operators: a slot is the weighted mean of its frames. And back.

Sums over slots and gathers back are both `embedding_bag`s, which fuse the gather, the weight and the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from speechllm_kernels.ctc_collapse.steps import Pooled, PoolGradients, accumulator


def pool(
    h: Tensor, scores: Tensor | None, slots: Tensor, starts: Tensor, ends: Tensor, width: int, holes: bool
) -> Pooled:
    """
    Gives the mean of the frames of each slot, weighted by `scores` [B, T].

    :param starts, ends: spans of the slots, as in `slots`; kernels that loop over spans take them and `holes`.
    :param holes: whether a span may hold frames of no slot (dropped blanks).
    """
    batch, frames, channels = h.shape
    members, offsets, slot = _members(slots, width)
    if scores is None:
        norms = offsets.diff().to(accumulator(h))
        weights = norms.reciprocal().take(slot)
    else:
        score = scores.reshape(-1).take(members)
        norms = _bags(score.unsqueeze(1), torch.arange(members.numel(), device=h.device), offsets, None).squeeze(1)
        weights = score / norms.take(slot)
    seqs = _bags(h.reshape(batch * frames, channels), members, offsets, weights)
    return Pooled(seqs.view(batch, width, channels), norms.view(batch, width))


def pool_backward(
    grad: Tensor,
    h: Tensor,
    scores: Tensor | None,
    slots: Tensor,
    starts: Tensor,
    ends: Tensor,
    norms: Tensor,
    for_h: bool,
    for_scores: bool,
) -> PoolGradients:
    batch, frames, channels = h.shape
    width = norms.shape[1]
    if width == 0:
        return PoolGradients(
            h.new_zeros(h.shape if for_h else 0), norms.new_zeros((batch, frames) if for_scores else 0)
        )
    grad = grad.reshape(batch * width, channels)
    kept = slots >= 0
    row = torch.arange(batch, device=h.device).unsqueeze(1) * width
    slot = (row + slots).where(kept, 0).reshape(-1)
    norm = norms.reshape(-1).take(slot).view(batch, frames).where(kept, 1.0)
    dh, dscores = h.new_empty(0), norms.new_empty(0)
    if for_h:
        weights = norm.reciprocal() if scores is None else scores / norm
        # One bag for each frame, with its slot or nothing in it: frames in no slot get exactly 0, those with NaN too.
        members, _, sources = _members(slots, width)
        offsets = pad(kept.reshape(-1).cumsum(0), (1, 0))
        dh = _bags(grad, sources, offsets, weights.reshape(-1).take(members)).view(batch, frames, channels)
    if for_scores:
        assert scores is not None
        wide = norms.dtype
        products = (grad.index_select(0, slot).view_as(h).to(wide) * h.to(wide)).sum(dim=2).where(kept, 0.0)
        members, offsets, _ = _members(slots, width)
        weighted = (products * scores).reshape(-1, 1)
        means = _bags(weighted, members, offsets, None).squeeze(1) / norms.reshape(-1)
        dscores = ((products - means.take(slot).view(batch, frames)) / norm).where(kept, 0.0)
    return PoolGradients(dh, dscores)


def _members(slots: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """
    The frames that are in slots, slot after slot.

    :returns: flat frame numbers (N of them; unused ones at the end are 0), offsets [B x width + 1] of the slots in
        them, flat slot of each. On a CPU N is the number of such frames, elsewhere B x T.
    """
    batch, frames = slots.shape
    kept = (slots >= 0).reshape(-1)
    row = torch.arange(batch, device=slots.device).unsqueeze(1) * width
    slot = (row + slots).reshape(-1)
    if slots.device.type == "cpu":
        members = kept.nonzero().squeeze(1)
        sources = slot.take(members)
    else:
        place = (kept.cumsum(0) - 1).where(kept, batch * frames)
        everyone = torch.arange(batch * frames, device=slots.device)
        members = everyone.new_zeros(batch * frames + 1).scatter_(0, place, everyone)[:-1]
        # Unused entries must name some slot.
        sources = slot.new_zeros(batch * frames + 1).scatter_(0, place, slot)[:-1]
    sizes = slot.new_zeros(batch * width + 1).scatter_add_(0, slot.where(kept, batch * width), kept.long())
    return members, pad(sizes[:-1].cumsum(0), (1, 0)), sources


def _bags(table: Tensor, members: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted sums of the table's rows that each bag names, accumulated in float32 at least."""
    wide = table.to(accumulator(table))
    if members.numel() == 0:
        return table.new_zeros((offsets.numel() - 1, table.shape[1]))
    sums = embedding_bag(members, wide, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
    return sums.to(table.dtype)
