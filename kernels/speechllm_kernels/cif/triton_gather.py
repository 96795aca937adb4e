"""Second kernel: a token is the weighted sum of the few frames between the one that completed its predecessor and the
one that completed it.

One warp per (token, block of channels): weights are scalars, loads are 16 bytes per lane, several frames are in flight,
and no two programs write the same place. The frame that two tokens share comes from the cache the second time.
"""

# Triton gives a kernel's arguments their types.
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechllm_kernels._triton_numbers import double, narrow, widen
from speechllm_kernels.cif.token_plan import Plan

WARPS = 1
FRAMES = 8  # in flight
BYTES_PER_LANE = 16


def block_of_channels(width: int, dtype: torch.dtype, warps: int) -> int:
    """Channels that the lanes of a program take in one load each."""
    return min(triton.next_power_of_2(width), 32 * warps * BYTES_PER_LANE // dtype.itemsize)


def forward(h: Tensor, lengths: Tensor, plan: Plan, beta: float) -> Tensor:
    batch, frames, width = h.shape
    slots = plan.fire_frames.shape[1]
    out = torch.empty(batch, slots, width, dtype=h.dtype, device=h.device)
    if slots == 0:
        return out
    block = block_of_channels(width, h.dtype, WARPS)
    blocks = triton.cdiv(width, block)
    gather_kernel[(slots * blocks, batch)](
        h,
        plan.cum,
        plan.fire_frames,
        plan.lengths,
        plan.overflow,
        plan.tail_scale,
        out,
        frames,
        width,
        slots,
        blocks,
        *h.stride(),
        BETA=beta,
        FRAMES=FRAMES,
        BLOCK=block,
        num_warps=WARPS,
    )
    return out


@triton.jit
def gather_kernel(
    h,
    cum,
    fire_frames,
    given_lengths,
    overflow,
    tail_scales,
    out,
    frames,
    width,
    slots,
    blocks,
    stride_row,
    stride_frame,
    stride_channel,
    BETA: tl.constexpr,
    FRAMES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) // blocks
    channel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    given = tl.load(given_lengths + row)
    slot = row * slots + token
    last = tl.load(fire_frames + slot)  # -1 in unused slots: no frame is read
    first = tl.load(fire_frames + slot - 1, mask=token > 0, other=0)
    first = tl.maximum(first, 0)
    last = tl.where(token < given, last, -1)
    is_last = token == given + tl.load(overflow + row) - 1
    factor = tl.where(is_last, tl.load(tail_scales + row), double(1.0)) * double(BETA)

    total = tl.zeros([BLOCK], dtype=tl.float32)
    low = token.to(tl.float64)
    high = low + 1.0
    cum_row = cum + row * frames
    source = h + row * stride_row + channel * stride_channel
    begin = tl.load(cum_row + first - 1, mask=(first > 0) & (first <= last), other=0.0)
    while first <= last:
        for step in tl.static_range(FRAMES):
            frame = first + step
            valid = frame <= last
            end = tl.load(cum_row + frame, mask=valid, other=0.0)
            weight = tl.maximum(tl.minimum(end, high) - tl.maximum(begin, low), 0.0)
            weight = tl.where(valid, weight * factor, 0.0).to(tl.float32)
            limit = tl.where(valid, width, 0)
            value = tl.load(source + frame * stride_frame, mask=channel < limit, other=0.0)
            total += weight * widen(value)
            begin = end
        first += FRAMES

    tl.store(out + slot * width + channel, narrow(total, out), mask=channel < width)
