"""Second kernel: the runs of equal labels, the slot of each, and the span of each slot."""

# Triton gives a kernel's arguments their types.
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechllm_kernels.ctc_collapse.steps import Plan

LARGEST_BLOCK = 2048  # frames that a program numbers at a time
WARPS = 8


def plan(frame_labels: Tensor, lengths: Tensor, blank: int, keep_blank: bool, width: int) -> Plan:
    batch, frames = frame_labels.shape
    frame_labels = frame_labels.contiguous()
    result = Plan.empty(frame_labels, width)
    with torch.cuda.device_of(frame_labels):
        ctc_plan_kernel[(batch,)](
            frame_labels,
            lengths,
            *result,
            frames,
            width,
            blank,
            KEEP_BLANK=keep_blank,
            CAPPED=width < frames,
            WIDE=frames * width >= 2**31,
            BLOCK=min(LARGEST_BLOCK, triton.next_power_of_2(frames)),
            num_warps=WARPS,
        )
    return result


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
