"""Third kernel: a slot is the weighted mean of its frames, which lie side by side."""

# Triton gives a kernel's arguments their types.
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechllm_kernels._triton_numbers import narrow, widen
from speechllm_kernels.ctc_collapse.steps import Pooled

FRAMES = 4  # in flight
BYTES_PER_LANE = 16


def pool(
    h: Tensor, scores: Tensor | None, slots: Tensor, starts: Tensor, ends: Tensor, width: int, holes: bool
) -> Pooled:
    batch, frames, channels = h.shape
    result = Pooled.empty(h, width)
    block, warps = block_of_channels(channels, h.element_size())
    if width > 0:
        with torch.cuda.device_of(h):
            ctc_pool_kernel[(batch * width, triton.cdiv(channels, block))](
                h,
                scores,
                slots,
                starts,
                ends,
                *result,
                frames,
                channels,
                width,
                starts.shape[1],
                *h.stride(),
                *strides_of(scores),
                SCORED=scores is not None,
                HOLES=holes,
                BLOCK_C=block,
                UNROLL=FRAMES,
                num_warps=warps,
            )
    return result


def block_of_channels(channels: int, item: int) -> tuple[int, int]:
    """
    Channels for one program, and warps so that each thread loads 16 bytes: of 1024, 512 and 256 the block that
    leaves the fewest lanes without work, the larger of equals.

    :param item: bytes of a number.
    """
    if channels <= 256:
        block = max(16, triton.next_power_of_2(channels))
    else:
        block = min((1024, 512, 256), key=lambda size: triton.cdiv(channels, size) * size)
    return block, max(1, min(8, block * item // (BYTES_PER_LANE * 32)))


def strides_of(scores: Tensor | None) -> tuple[int, int]:
    """Strides of scores [B, T]; without scores they are not used."""
    return (0, 0) if scores is None else (scores.stride(0), scores.stride(1))


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
        x = tl.load(source, mask=member[:, None] & (c < channels)[None, :], other=0.0)
        total += tl.sum(widen(x) * score[:, None], axis=0)
        norm += score
    all_norm = tl.sum(norm, axis=0)
    mean = total / tl.where(all_norm > 0, all_norm, 1.0)
    output = (batch * width + slot) * channels + c
    tl.store(seqs + output, narrow(mean, seqs), mask=c < channels)
    if tl.program_id(1) == 0:
        tl.store(norms + batch * width + slot, all_norm)
