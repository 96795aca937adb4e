"""Fourth and fifth kernel: gradients of the mean, for the frames and for their scores.

With G the gradient of the slot that frame t is in: dL/dh_t = w_t G, and the scores' gradient needs only
q_t = <G, h_t>, which the same pass over h gives. A second, small pass takes from q its mean over the slot.
"""

# Triton gives a kernel's arguments their types.
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechllm_kernels._triton_numbers import narrow, widen
from speechllm_kernels.ctc_collapse.steps import PoolGradients
from speechllm_kernels.ctc_collapse.triton_pool import block_of_channels, strides_of

FRAMES = 4  # per program of the pass over h
SCORES = 32  # that a program of the pass over q reads at a time
SCORES_WARPS = 1


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
    result = PoolGradients.empty(h, norms, for_h, for_scores)
    # Frames in no slot are not written below.
    result.scores.zero_()
    products = torch.empty_like(result.scores)
    block, warps = block_of_channels(channels, h.element_size())
    # q_t sums over all channels: one program then loops over them.
    span = triton.cdiv(channels, block) * block if for_scores else block
    with torch.cuda.device_of(h):
        ctc_pool_backward_kernel[(batch * triton.cdiv(frames, FRAMES), triton.cdiv(channels, span))](
            grad,
            h,
            scores,
            slots,
            norms,
            result.h,
            products,
            frames,
            channels,
            width,
            span,
            *grad.stride(),
            *h.stride(),
            *strides_of(scores),
            SCORED=scores is not None,
            FOR_H=for_h,
            FOR_SCORES=for_scores,
            BLOCK_T=FRAMES,
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
                result.scores,
                frames,
                width,
                starts.shape[1],
                *strides_of(scores),
                BLOCK=SCORES,
                num_warps=SCORES_WARPS,
            )
    return result


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
        g = widen(tl.load(upper, mask=mask, other=0.0))
        if FOR_SCORES:
            source = h + batch * stride_b + t.to(tl.int64)[:, None] * stride_t + c[None, :] * stride_c
            product += tl.sum(g * widen(tl.load(source, mask=mask, other=0.0)), axis=1)
        if FOR_H:
            target = dh + (batch * frames + t)[:, None] * channels + c[None, :]
            value = g * weight[:, None]
            tl.store(target, narrow(value, dh), mask=(t < frames)[:, None] & (c < channels)[None, :])
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
