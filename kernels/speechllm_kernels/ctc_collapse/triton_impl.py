"""The Triton kernels. No atomics: each output element has one writer, and sums run in a fixed order.

Every kernel takes strides, so inputs need not be contiguous, and clamps lengths to T, so wrong lengths cannot lead
outside of memory. Row offsets are 64-bit: B x T x V passes 2^31 at real sizes.
"""

# Triton gives the parameters of kernels their types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

# Logits that one program reads at a time: 16 bytes for each of 512 lanes.
_LANES = 512


@triton.jit
def ctc_label_frames_kernel(
    logits,
    lengths,
    labels,
    probability,
    rest,
    sums,
    frames,
    vocabulary,
    stride_b,
    stride_t,
    stride_v,
    PROBABILITIES: tl.constexpr,
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,
    TILES: tl.constexpr,
):
    """One program for each frame. A lane owns VECTOR neighbouring logits of every tile: one wide load.

    Each logit costs a maximum and, if probabilities are wanted, one exponential. Where the maximum is gets found
    afterwards: lanes remember only the tile in which theirs rose last, and those with the maximum read it again.
    """
    row = tl.program_id(0).to(tl.int64)
    batch = row // frames
    inside = row % frames < tl.load(lengths + batch)
    base = logits + batch * stride_b + (row % frames) * stride_t

    TILE: tl.constexpr = LANES * VECTOR
    place = tl.arange(0, LANES)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    best = tl.full([LANES], float("-inf"), tl.float32)
    tile = tl.zeros([LANES], tl.int32)
    total = tl.zeros([LANES], tl.float32)
    size = tl.where(inside, vocabulary, 0)
    whole = size // TILE
    for index in range(0, whole):
        x = tl.load(base + (index * TILE + place).to(tl.int64) * stride_v).to(tl.float32)
        top = tl.max(x, axis=1)
        new = tl.maximum(best, top)
        if PROBABILITIES:
            finite = tl.where(new == float("-inf"), 0.0, new)
            total = total * tl.exp(best - finite) + tl.sum(tl.exp(x - finite[:, None]), axis=1)
        tile = tl.where(top > best, index, tile)
        best = new
    tail = whole * TILE + place
    x = tl.load(base + tail.to(tl.int64) * stride_v, mask=tail < size, other=float("-inf")).to(tl.float32)
    top = tl.max(x, axis=1)
    new = tl.maximum(best, top)
    if PROBABILITIES:
        finite = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(best - finite) + tl.sum(tl.exp(x - finite[:, None]), axis=1)
    tile = tl.where(top > best, whole, tile)
    best = new

    most = tl.max(best, axis=0)
    again = tile[:, None] * TILE + place
    mask = (best == most)[:, None] & (again < size)
    x = tl.load(base + again.to(tl.int64) * stride_v, mask=mask, other=float("-inf")).to(tl.float32)
    lowest = tl.min(tl.min(tl.where(mask & (x == most), again, vocabulary - 1), axis=1), axis=0)
    tl.store(labels + row, tl.where(inside, lowest, -1).to(tl.int64))
    if PROBABILITIES:
        # In the label's own lane the sum holds exp(0) = 1, next to which small terms are lost. All of the lane is read
        # again and added up without it: 1 - p is then right even where p rounds to 1.
        finite_most = tl.where(most == float("-inf"), 0.0, most)
        own = (lowest % TILE) // VECTOR
        others = tl.where(tl.arange(0, LANES) == own, 0.0, total * tl.exp(best - finite_most))
        lane = (tl.arange(0, TILES) * TILE + own * VECTOR)[:, None] + tl.arange(0, VECTOR)[None, :]
        x = tl.load(base + lane.to(tl.int64) * stride_v, mask=lane < size, other=float("-inf")).to(tl.float32)
        powers = tl.where(lane == lowest, 0.0, tl.exp(x - finite_most))
        remaining = tl.sum(others, axis=0) + tl.sum(tl.sum(powers, axis=1), axis=0)
        # log(1 + r) without losing a small r: the sum's rounding is made up for.
        whole_sum = 1.0 + remaining
        logarithm = tl.log(whole_sum) + (remaining - (whole_sum - 1.0)) / whole_sum
        tl.store(probability + row, tl.where(inside, 1.0 / whole_sum, 0.0))
        tl.store(rest + row, tl.where(inside, remaining, 0.0))
        tl.store(sums + row, tl.where(inside, most + logarithm, 0.0))


@triton.jit
def ctc_label_frames_backward_kernel(
    grad,
    logits,
    lengths,
    labels,
    probability,
    rest,
    sums,
    result,
    frames,
    vocabulary,
    stride_gb,
    stride_gt,
    stride_b,
    stride_t,
    stride_v,
    BLOCK: tl.constexpr,
):
    """dL/dlogits: p (1 - p) at the label, -p softmax_v elsewhere; a program for each frame and block of labels."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // frames
    t = row % frames
    inside = t < tl.load(lengths + batch)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exists = v < vocabulary
    source = logits + batch * stride_b + t * stride_t + v.to(tl.int64) * stride_v
    x = tl.load(source, mask=exists & inside, other=float("-inf")).to(tl.float32)
    p = tl.load(probability + row)
    scale = tl.load(grad + batch * stride_gb + t * stride_gt, mask=inside, other=0.0) * p
    own = tl.load(rest + row) * p
    value = scale * tl.where(v == tl.load(labels + row), own, -tl.exp(x - tl.load(sums + row)))
    tl.store(result + row * vocabulary + v, value.to(result.dtype.element_ty), mask=exists)


@triton.jit
def ctc_plan_kernel(
    frame_labels,
    lengths,
    slots,
    labels,
    starts,
    ends,
    counts,
    merged,
    frames,
    width,
    blank,
    KEEP_BLANK: tl.constexpr,
    CAPPED: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program for each row: counts the runs, then numbers them and writes slots and their spans."""
    batch = tl.program_id(0).to(tl.int64)
    length = tl.minimum(tl.load(lengths + batch), frames).to(tl.int32)
    row = frame_labels + batch * frames
    number = tl.int64 if WIDE else tl.int32

    runs = tl.zeros([BLOCK], tl.int32)
    for begin in range(0, length, BLOCK):
        t = begin + tl.arange(0, BLOCK)
        label = tl.load(row + t, mask=t < length, other=-1)
        before = tl.load(row + t - 1, mask=(t > 0) & (t < length), other=-1)
        begins = (t < length) & ((t == 0) | (label != before))
        if not KEEP_BLANK:
            begins = begins & (label != blank)
        runs += begins.to(tl.int32)
    all_runs = tl.sum(runs, axis=0)
    count = tl.minimum(all_runs, width)
    tl.store(counts + batch, count.to(tl.int64))
    tl.store(merged + batch, (all_runs - count).to(tl.int64))

    divisor = tl.maximum(all_runs, 1).to(number)
    factor = count.to(number)
    done = tl.zeros([], tl.int32)
    for begin in range(0, frames, BLOCK):
        t = begin + tl.arange(0, BLOCK)
        kept = t < length
        label = tl.load(row + t, mask=kept, other=-1)
        before = tl.load(row + t - 1, mask=(t > 0) & kept, other=-1)
        after = tl.load(row + t + 1, mask=t + 1 < length, other=-1)
        changes = (t == 0) | (label != before)
        finishes = (t + 1 >= length) | (label != after)
        if not KEEP_BLANK:
            kept = kept & (label != blank)
        begins = (kept & changes).to(tl.int32)
        run = done + tl.cumsum(begins, axis=0) - 1
        first = kept & changes
        last = kept & finishes
        slot = run
        if CAPPED:
            slot = (run.to(number) * factor // divisor).to(tl.int32)
            first = first & ((run == 0) | (slot != ((run - 1).to(number) * factor // divisor).to(tl.int32)))
            last = last & (slot != ((run + 1).to(number) * factor // divisor).to(tl.int32))
        tl.store(slots + batch * frames + t, tl.where(kept, slot, -1), mask=t < frames)
        tl.store(labels + batch * width + slot, label, mask=first)
        tl.store(starts + batch * width + slot, t.to(tl.int64), mask=first)
        tl.store(ends + batch * width + slot, (t + 1).to(tl.int64), mask=last)
        empty = (t >= count) & (t < width)
        tl.store(labels + batch * width + t, tl.full([BLOCK], -1, tl.int64), mask=empty)
        tl.store(starts + batch * width + t, tl.zeros([BLOCK], tl.int64), mask=empty)
        tl.store(ends + batch * width + t, tl.zeros([BLOCK], tl.int64), mask=empty)
        done += tl.sum(begins, axis=0)


@triton.jit
def ctc_pool_kernel(
    h,
    scores,
    slots,
    starts,
    ends,
    seqs,
    norms,
    frames,
    channels,
    width,
    planned,
    stride_b,
    stride_t,
    stride_c,
    stride_sb,
    stride_st,
    SCORED: tl.constexpr,
    HOLES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """One program for each slot and block of channels; it reads its frames once, UNROLL of them in flight."""
    batch = tl.program_id(0).to(tl.int64) // width
    slot = tl.program_id(0) % width
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    start = tl.load(starts + batch * planned + slot).to(tl.int32)
    end = tl.load(ends + batch * planned + slot).to(tl.int32)
    total = tl.zeros([BLOCK_C], tl.float32)
    norm = tl.zeros([UNROLL], tl.float32)
    for begin in range(start, end, UNROLL):
        t = begin + tl.arange(0, UNROLL)
        member = t < end
        if HOLES:
            member = member & (tl.load(slots + batch * frames + t, mask=member, other=-1) >= 0)
        if SCORED:
            score = tl.load(scores + batch * stride_sb + t * stride_st, mask=member, other=0.0)
        else:
            score = member.to(tl.float32)
        source = h + batch * stride_b + t.to(tl.int64)[:, None] * stride_t + c[None, :] * stride_c
        x = tl.load(source, mask=member[:, None] & (c < channels)[None, :], other=0.0).to(tl.float32)
        total += tl.sum(x * score[:, None], axis=0)
        norm += score
    all_norm = tl.sum(norm, axis=0)
    mean = total / tl.where(all_norm > 0, all_norm, 1.0)
    output = (batch * width + slot) * channels + c
    tl.store(seqs + output, mean.to(seqs.dtype.element_ty), mask=c < channels)
    if tl.program_id(1) == 0:
        tl.store(norms + batch * width + slot, all_norm)


@triton.jit
def ctc_pool_backward_kernel(
    grad,
    h,
    scores,
    slots,
    norms,
    dh,
    products,
    frames,
    channels,
    width,
    span,
    stride_gb,
    stride_gu,
    stride_gc,
    stride_b,
    stride_t,
    stride_c,
    stride_sb,
    stride_st,
    SCORED: tl.constexpr,
    FOR_H: tl.constexpr,
    FOR_SCORES: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program for each tile of frames and span of channels: gathers the gradient of each frame's slot."""
    tiles = tl.cdiv(frames, BLOCK_T)
    batch = tl.program_id(0).to(tl.int64) // tiles
    t = (tl.program_id(0) % tiles) * BLOCK_T + tl.arange(0, BLOCK_T)
    slot = tl.load(slots + batch * frames + t, mask=t < frames, other=-1)
    member = slot >= 0
    weight = 1.0 / tl.load(norms + batch * width + slot, mask=member, other=1.0)
    if SCORED:
        weight = weight * tl.load(scores + batch * stride_sb + t * stride_st, mask=member, other=0.0)
    product = tl.zeros([BLOCK_T], tl.float32)
    first = tl.program_id(1) * span
    for begin in range(first, tl.minimum(first + span, channels), BLOCK_C):
        c = begin + tl.arange(0, BLOCK_C)
        mask = member[:, None] & (c < channels)[None, :]
        upper = grad + batch * stride_gb + slot.to(tl.int64)[:, None] * stride_gu + c[None, :] * stride_gc
        g = tl.load(upper, mask=mask, other=0.0).to(tl.float32)
        if FOR_SCORES:
            source = h + batch * stride_b + t.to(tl.int64)[:, None] * stride_t + c[None, :] * stride_c
            product += tl.sum(g * tl.load(source, mask=mask, other=0.0).to(tl.float32), axis=1)
        if FOR_H:
            target = dh + (batch * frames + t)[:, None] * channels + c[None, :]
            value = (g * weight[:, None]).to(dh.dtype.element_ty)
            tl.store(target, value, mask=(t < frames)[:, None] & (c < channels)[None, :])
    if FOR_SCORES:
        tl.store(products + batch * frames + t, product, mask=t < frames)


@triton.jit
def ctc_scores_backward_kernel(
    products,
    scores,
    slots,
    starts,
    ends,
    norms,
    dscores,
    frames,
    width,
    planned,
    stride_sb,
    stride_st,
    BLOCK: tl.constexpr,
):
    """dL/ds_t = (q_t - mean of q over the slot) / norm with q_t = <G, h_t>, one program for each slot."""
    batch = tl.program_id(0).to(tl.int64) // width
    place = tl.program_id(0) % width
    start = tl.load(starts + batch * planned + place).to(tl.int32)
    end = tl.load(ends + batch * planned + place).to(tl.int32)
    norm = tl.load(norms + batch * width + place)
    norm = tl.where(norm > 0, norm, 1.0)
    total = tl.zeros([BLOCK], tl.float32)
    for begin in range(start, end, BLOCK):
        t = begin + tl.arange(0, BLOCK)
        member = tl.load(slots + batch * frames + t, mask=t < end, other=-1) >= 0
        q = tl.load(products + batch * frames + t, mask=member, other=0.0)
        total += q * tl.load(scores + batch * stride_sb + t * stride_st, mask=member, other=0.0)
    mean = tl.sum(total, axis=0) / norm
    for begin in range(start, end, BLOCK):
        t = begin + tl.arange(0, BLOCK)
        member = tl.load(slots + batch * frames + t, mask=t < end, other=-1) >= 0
        q = tl.load(products + batch * frames + t, mask=member, other=0.0)
        tl.store(dscores + batch * frames + t, (q - mean) / norm, mask=member)


def label_frames(logits: Tensor, lengths: Tensor, probabilities: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `torch_impl.label_frames`."""
    batch, frames, vocabulary = logits.shape
    labels = torch.empty((batch, frames), dtype=torch.int64, device=logits.device)
    shape = (batch, frames) if probabilities else 0
    probability, rest, sums = (torch.empty(shape, dtype=torch.float32, device=logits.device) for _ in range(3))
    vector = 16 // logits.element_size()
    with _device_of(logits):
        ctc_label_frames_kernel[(batch * frames,)](
            logits,
            lengths,
            labels,
            probability,
            rest,
            sums,
            frames,
            vocabulary,
            *logits.stride(),
            PROBABILITIES=probabilities,
            LANES=_LANES,
            VECTOR=vector,
            TILES=triton.next_power_of_2(triton.cdiv(vocabulary, _LANES * vector)),
            num_warps=4,
        )
    return labels, probability, rest, sums


def label_frames_backward(
    grad: Tensor, logits: Tensor, lengths: Tensor, labels: Tensor, probability: Tensor, rest: Tensor, sums: Tensor
) -> Tensor:
    """See `torch_impl.label_frames_backward`."""
    batch, frames, vocabulary = logits.shape
    result = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    block = min(4096, triton.next_power_of_2(vocabulary))
    with _device_of(logits):
        ctc_label_frames_backward_kernel[(batch * frames, triton.cdiv(vocabulary, block))](
            grad,
            logits,
            lengths,
            labels,
            probability,
            rest,
            sums,
            result,
            frames,
            vocabulary,
            *grad.stride(),
            *logits.stride(),
            BLOCK=block,
            num_warps=4,
        )
    return result


def plan(
    frame_labels: Tensor, lengths: Tensor, blank: int, keep_blank: bool, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `torch_impl.plan`."""
    batch, frames = frame_labels.shape
    frame_labels = frame_labels.contiguous()
    slots = torch.empty((batch, frames), dtype=torch.int32, device=frame_labels.device)
    labels, starts, ends = (frame_labels.new_empty((batch, width)) for _ in range(3))
    counts, merged = (frame_labels.new_empty(batch) for _ in range(2))
    block = min(2048, triton.next_power_of_2(frames))
    with _device_of(frame_labels):
        ctc_plan_kernel[(batch,)](
            frame_labels,
            lengths,
            slots,
            labels,
            starts,
            ends,
            counts,
            merged,
            frames,
            width,
            blank,
            KEEP_BLANK=keep_blank,
            CAPPED=width < frames,
            WIDE=frames * width >= 2**31,
            BLOCK=block,
            num_warps=8,
        )
    return slots, labels, starts, ends, counts, merged


def pool(
    h: Tensor, scores: Tensor | None, slots: Tensor, starts: Tensor, ends: Tensor, width: int, holes: bool
) -> tuple[Tensor, Tensor]:
    """See `torch_impl.pool`."""
    batch, frames, channels = h.shape
    seqs = torch.empty((batch, width, channels), dtype=h.dtype, device=h.device)
    norms = torch.empty((batch, width), dtype=torch.float32, device=h.device)
    block, warps = _channel_block(channels, h.element_size())
    if width > 0:
        with _device_of(h):
            ctc_pool_kernel[(batch * width, triton.cdiv(channels, block))](
                h,
                scores,
                slots,
                starts,
                ends,
                seqs,
                norms,
                frames,
                channels,
                width,
                starts.shape[1],
                *h.stride(),
                *_strides(scores),
                SCORED=scores is not None,
                HOLES=holes,
                BLOCK_C=block,
                UNROLL=4,
                num_warps=warps,
            )
    return seqs, norms


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
    """See `torch_impl.pool_backward`."""
    batch, frames, channels = h.shape
    width = norms.shape[1]
    dh = torch.empty(h.shape if for_h else 0, dtype=h.dtype, device=h.device)
    products = torch.empty((batch, frames) if for_scores else 0, dtype=torch.float32, device=h.device)
    dscores = torch.zeros_like(products)
    block, warps = _channel_block(channels, h.element_size())
    # The products are sums over all channels: one program then walks through them.
    span = triton.cdiv(channels, block) * block if for_scores else block
    with _device_of(h):
        ctc_pool_backward_kernel[(batch * triton.cdiv(frames, 4), triton.cdiv(channels, span))](
            grad,
            h,
            scores,
            slots,
            norms,
            dh,
            products,
            frames,
            channels,
            width,
            span,
            *grad.stride(),
            *h.stride(),
            *_strides(scores),
            SCORED=scores is not None,
            FOR_H=for_h,
            FOR_SCORES=for_scores,
            BLOCK_T=4,
            BLOCK_C=block,
            num_warps=warps,
        )
        if for_scores and width > 0:
            ctc_scores_backward_kernel[(batch * width,)](
                products,
                scores,
                slots,
                starts,
                ends,
                norms,
                dscores,
                frames,
                width,
                starts.shape[1],
                *_strides(scores),
                BLOCK=32,
                num_warps=1,
            )
    return dh, dscores


def _channel_block(channels: int, item: int) -> tuple[int, int]:
    """
    Channels for one program, and warps so that each thread loads 16 bytes: of 1024, 512 and 256 the block that
    leaves the fewest lanes without work, the larger of equals.
    """
    if channels <= 256:
        block = max(16, triton.next_power_of_2(channels))
    else:
        block = min((1024, 512, 256), key=lambda size: triton.cdiv(channels, size) * size)
    return block, max(1, min(8, block * item // (16 * 32)))


def _strides(scores: Tensor | None) -> tuple[int, int]:
    return (0, 0) if scores is None else (scores.stride(0), scores.stride(1))


def _device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
