"""The fast path in plain torch: for CPUs, and for devices without Triton.

Sums over runs and gathers back are both `embedding_bag`s, which fuse the gather, the weight and the sum. Nothing
here reads a tensor's value on the host except on a CPU, where that is free.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from speechllm_kernels._common import valid_frames

# A row is cut into blocks of this many logits. torch.amax over blocks runs at the speed of memory where torch.argmax
# does not (3x in float32, 8x in bfloat16 on the CPUs tried); only the winning block is then searched.
_ARGMAX_BLOCK = 256

# Logits that are exponentiated at a time, so that the temporary stays in the cache.
_CHUNK = 1 << 19


def label_frames(logits: Tensor, lengths: Tensor, probabilities: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """
    Gives the label of each frame [B, T] (-1 in the padding) and, if asked for, with m the maximum of its logits:

    - the label's probability p;
    - `rest`, the sum of exp(logit - m) over all other labels: 1 - p = rest x p, also where p rounds to 1;
    - `sums`, the logarithm of the sum of exp(logit).

    All are [B, T], and 0 in the padding.
    """
    batch, frames, vocabulary = logits.shape
    valid = valid_frames(lengths, frames)
    labels = torch.empty((batch, frames), dtype=torch.int64, device=logits.device)
    sums = logits.new_zeros((batch, frames) if probabilities else 0, dtype=_accumulator(logits))
    rest = torch.zeros_like(sums)
    step = max(1, _CHUNK // vocabulary)
    for b, rows in _rows(logits, lengths):
        row = logits[b, rows]
        labels[b, rows] = chosen = _argmax(row)
        if probabilities:
            place = chosen.unsqueeze(1)
            top = row.gather(1, place).to(sums.dtype)
            work = sums.new_empty((step, vocabulary))
            for begin in range(0, row.shape[0], step):
                part = slice(begin, begin + step)
                chunk = row[part].to(sums.dtype)
                powers = torch.sub(chunk, top[part], out=work[: chunk.shape[0]]).exp_().scatter_(1, place[part], 0.0)
                torch.sum(powers, dim=1, out=rest[b, rows][part])
            sums[b, rows] = rest[b, rows].log1p() + top.squeeze(1)
    if probabilities:
        rest, sums = rest.where(valid, 0.0), sums.where(valid, 0.0)
        return labels.where(valid, -1), (1.0 + rest).reciprocal().where(valid, 0.0), rest, sums
    return labels.where(valid, -1), torch.empty_like(sums), rest, sums


def label_frames_backward(
    grad: Tensor, logits: Tensor, lengths: Tensor, labels: Tensor, probability: Tensor, rest: Tensor, sums: Tensor
) -> Tensor:
    """dL/dlogits from dL/dp: p (1 - p) at the label, -p softmax_v elsewhere."""
    valid = valid_frames(lengths, logits.shape[1])
    scale = (grad * probability).where(valid, 0.0)
    at_label = scale * rest * probability
    result = torch.zeros(logits.shape, dtype=logits.dtype, device=logits.device)
    for b, rows in _rows(logits, lengths):
        step = max(1, _CHUNK // logits.shape[2])
        parts = (logits, result, sums, scale, at_label, labels)
        for chunk, out, total, factor, own, chosen in zip(*(part[b, rows].split(step) for part in parts), strict=True):
            value = (chunk.to(total.dtype) - total.unsqueeze(1)).exp_().mul_(-factor.unsqueeze(1))
            value.scatter_(1, chosen.clamp(min=0).unsqueeze(1), own.unsqueeze(1))
            # In the padding the logits may be anything: `where` keeps that out.
            out.copy_(value.where((chosen >= 0).unsqueeze(1), 0.0))
    return result


def plan(
    frame_labels: Tensor, lengths: Tensor, blank: int, keep_blank: bool, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """
    Finds the runs and the slot of each.

    :param width: most slots of a row: the cap, or T.
    :returns: slots int32 [B, T] (-1 for a frame in none), labels, starts, ends [B, width], counts, merged [B].
    """
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

    return (
        slot.where(kept, -1).int(),
        by_slot(first, frame_labels, -1),
        by_slot(first, frame, 0),
        by_slot(last, frame + 1, 0),
        counts.squeeze(1),
        (runs - counts).squeeze(1),
    )


def pool(
    h: Tensor, scores: Tensor | None, slots: Tensor, starts: Tensor, ends: Tensor, width: int, holes: bool
) -> tuple[Tensor, Tensor]:
    """
    Gives the mean of the frames of each slot, weighted by `scores` [B, T], as [B, width, C], and the sum of the
    scores of each slot [B, width].

    :param starts, ends: spans of the slots. Like `holes` for kernels that walk through spans; `slots` says it all.
    :param holes: whether a span may hold frames of no slot (dropped blanks).
    """
    batch, frames, channels = h.shape
    members, offsets, slot = _members(slots, width)
    if scores is None:
        norms = offsets.diff().to(_accumulator(h))
        weights = norms.reciprocal().take(slot)
    else:
        score = scores.reshape(-1).take(members)
        norms = _bags(score.unsqueeze(1), torch.arange(members.numel(), device=h.device), offsets, None).squeeze(1)
        weights = score / norms.take(slot)
    seqs = _bags(h.reshape(batch * frames, channels), members, offsets, weights)
    return seqs.view(batch, width, channels), norms.view(batch, width)


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
) -> tuple[Tensor, Tensor]:
    """dL/dh and dL/dscores; an empty tensor for the one not asked for."""
    batch, frames, channels = h.shape
    width = norms.shape[1]
    if width == 0:
        return h.new_zeros(h.shape if for_h else 0), norms.new_zeros((batch, frames) if for_scores else 0)
    grad = grad.reshape(batch * width, channels)
    kept = slots >= 0
    row = torch.arange(batch, device=h.device).unsqueeze(1) * width
    slot = (row + slots).where(kept, 0).reshape(-1)
    norm = norms.reshape(-1).take(slot).view(batch, frames).where(kept, 1.0)
    dh, dscores = h.new_empty(0), norms.new_empty(0)
    if for_h:
        weights = norm.reciprocal() if scores is None else scores / norm
        # One bag for each frame, with its slot in it or nothing: frames in no slot get exactly 0, whatever is in them.
        members, _, sources = _members(slots, width)
        offsets = torch.nn.functional.pad(kept.reshape(-1).cumsum(0), (1, 0))
        dh = _bags(grad, sources, offsets, weights.reshape(-1).take(members)).view(batch, frames, channels)
    if for_scores:
        assert scores is not None
        wide = norms.dtype
        products = (grad.index_select(0, slot).view_as(h).to(wide) * h.to(wide)).sum(dim=2).where(kept, 0.0)
        members, offsets, _ = _members(slots, width)
        weighted = (products * scores).reshape(-1, 1)
        means = _bags(weighted, members, offsets, None).squeeze(1) / norms.reshape(-1)
        dscores = ((products - means.take(slot).view(batch, frames)) / norm).where(kept, 0.0)
    return dh, dscores


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _rows(logits: Tensor, lengths: Tensor) -> Iterator[tuple[int, slice]]:
    """Row by row the frames to work on: on a CPU those before the padding, elsewhere all (no host sync)."""
    frames = logits.shape[1]
    counts = lengths.tolist() if lengths.device.type == "cpu" else [frames] * logits.shape[0]
    for b, count in enumerate(counts):
        if count > 0:
            yield b, slice(0, count)


def _argmax(row: Tensor) -> Tensor:
    """The lowest index of the maximum of each row of [N, V]."""
    vocabulary, block = row.shape[1], _ARGMAX_BLOCK
    if vocabulary <= 4 * block:
        return row.argmax(dim=1)
    whole = vocabulary - vocabulary % block
    tops = row[:, :whole].unflatten(1, (-1, block)).amax(dim=2)
    if whole < vocabulary:
        tops = torch.cat([tops, row[:, whole:].amax(dim=1, keepdim=True)], dim=1)
    # The window of the last, shorter block reaches back: what it adds there is smaller than the maximum.
    begin = (tops.argmax(dim=1, keepdim=True) * block).clamp(max=vocabulary - block)
    window = row.gather(1, begin + torch.arange(block, device=row.device))
    return begin.squeeze(1) + window.argmax(dim=1)


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
        # The unused places must name some slot: the first.
        sources = slot.new_zeros(batch * frames + 1).scatter_(0, place, slot)[:-1]
    sizes = slot.new_zeros(batch * width + 1).scatter_add_(0, slot.where(kept, batch * width), kept.long())
    return members, torch.nn.functional.pad(sizes[:-1].cumsum(0), (1, 0)), sources


def _bags(table: Tensor, members: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted sums of the table's rows that each bag names, accumulated in float32 at least."""
    wide = table.to(_accumulator(table))
    if members.numel() == 0:
        return table.new_zeros((offsets.numel() - 1, table.shape[1]))
    sums = embedding_bag(members, wide, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
    return sums.to(table.dtype)
