"""Third and fourth kernel: gradients.

With P_u = (factor of token u) * dL/d(token u), and k(t) the token at hand after frame t:
dL/dh_t = sum over u of w[t, u] P_u, and alpha's gradient needs only q_t = <P_k(t), h_t> and e_t = <P_k(t-1), h_t>,
which the same pass over h gives. A second, small pass sums q - e over the frames that follow.
"""

# Triton gives a kernel's arguments their types.
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechllm_kernels._triton_numbers import double, narrow, widen
from speechllm_kernels.cif.token_plan import Plan, Rules
from speechllm_kernels.cif.triton_gather import block_of_channels

FRAMES = 4  # per program of the pass over h
WARPS = 1
# As in the scan: independent of T.
CHUNK = 2048
CHUNK_WARPS = 8


def backward(
    grad: Tensor,
    h: Tensor,
    lengths: Tensor,
    plan: Plan,
    rules: Rules,
    *,
    scaled: bool,
    alpha_dtype: torch.dtype,
    need_h: bool,
    need_alpha: bool,
) -> tuple[Tensor | None, Tensor | None]:
    batch, frames, width = h.shape
    slots = plan.fire_frames.shape[1]
    device = h.device
    block = block_of_channels(width, h.dtype, WARPS)
    blocks = triton.cdiv(width, block)
    # Unneeded outputs are never touched by the kernels; any tensor stands in for them.
    grad_h = torch.empty(h.shape, dtype=h.dtype, device=device) if need_h else None
    products = torch.empty(2, blocks, batch, frames, dtype=torch.float32, device=device) if need_alpha else None
    grad_frames_kernel[(triton.cdiv(frames, FRAMES) * blocks, batch)](
        grad,
        h,
        lengths,
        plan.cum,
        plan.lengths,
        plan.overflow,
        plan.tail_scale,
        grad if grad_h is None else grad_h,
        grad if products is None else products,
        frames,
        width,
        blocks,
        *grad.stride(),
        *h.stride(),
        lengths.stride(0),
        BETA=rules.beta,
        NEED_H=need_h,
        NEED_ALPHA=need_alpha,
        FRAMES=FRAMES,
        BLOCK=block,
        num_warps=WARPS,
    )
    if products is None:
        return grad_h, None

    grad_alpha = torch.empty(batch, frames, dtype=alpha_dtype, device=device)
    chunks = triton.cdiv(frames, CHUNK)
    sums = torch.empty(3, batch, chunks, dtype=torch.float64, device=device) if chunks > 1 else plan.scale
    for totals in (True, False) if chunks > 1 else (False,):
        grad_alpha_kernel[(chunks, batch)](
            products,
            lengths,
            plan.cum,
            plan.lengths,
            plan.overflow,
            plan.scale,
            plan.tail_scale,
            sums,
            grad_alpha,
            frames,
            blocks,
            lengths.stride(0),
            TOTALS=totals,
            SCALED=scaled,
            TAIL=rules.tail_renorm and rules.tail_renorm_grad and not scaled and slots > 0,
            CHUNK=CHUNK,
            CHUNKS_ABOVE=triton.next_power_of_2(chunks),
            num_warps=CHUNK_WARPS,
        )
    return grad_h, grad_alpha


@triton.jit
def grad_frames_kernel(
    grad,
    h,
    lengths,
    cum,
    given_lengths,
    overflow,
    tail_scales,
    grad_h,
    products,  # [2, blocks, B, T]: q and e, one part per block of channels
    frames,
    width,
    blocks,
    grad_stride_row,
    grad_stride_slot,
    grad_stride_channel,
    stride_row,
    stride_frame,
    stride_channel,
    stride_length,
    BETA: tl.constexpr,
    NEED_H: tl.constexpr,
    NEED_ALPHA: tl.constexpr,
    FRAMES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per (a few frames, row, block of channels)."""
    row = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0) % blocks
    start = (tl.program_id(0) // blocks).to(tl.int64) * FRAMES
    channel = block * BLOCK + tl.arange(0, BLOCK)
    length = tl.minimum(tl.maximum(tl.load(lengths + row * stride_length).to(tl.int64), 0), frames)
    given = tl.load(given_lengths + row)
    last_token = given + tl.load(overflow + row) - 1
    factor = double(BETA)
    last_factor = tl.load(tail_scales + row) * factor
    cum_row = cum + row * frames
    source = h + row * stride_row + channel * stride_channel
    grad_source = grad + row * grad_stride_row + channel * grad_stride_channel
    at = (block * tl.num_programs(1).to(tl.int64) + row) * frames
    half = blocks * tl.num_programs(1).to(tl.int64) * frames

    begin = tl.load(cum_row + start - 1, mask=(start > 0) & (start < length), other=0.0)
    for step in tl.static_range(FRAMES):
        frame = start + step
        valid = frame < length
        end = tl.load(cum_row + frame, mask=valid, other=0.0)
        old = tl.floor(begin)
        new = tl.floor(end)
        old_token = old.to(tl.int64)
        new_token = new.to(tl.int64)
        fires = valid & (new_token > old_token)
        # Of the token that is current before the frame and, where the frame completes it, of the one current after it.
        old_limit = tl.where(valid & (old_token < given), width, 0)
        new_limit = tl.where(fires & (new_token < given), width, 0)
        old_grad = tl.load(grad_source + old_token * grad_stride_slot, mask=channel < old_limit, other=0.0)
        new_grad = tl.load(grad_source + new_token * grad_stride_slot, mask=channel < new_limit, other=0.0)
        old_grad, new_grad = widen(old_grad), widen(new_grad)
        old_factor = tl.where(old_token == last_token, last_factor, factor)
        new_factor = tl.where(new_token == last_token, last_factor, factor)
        if NEED_ALPHA:
            limit = tl.where(valid, width, 0)
            value = widen(tl.load(source + frame * stride_frame, mask=channel < limit, other=0.0))
            old_product = (tl.sum(old_grad * value, 0) * old_factor).to(tl.float32)
            new_product = (tl.sum(new_grad * value, 0) * new_factor).to(tl.float32)
            new_product = tl.where(fires, new_product, old_product)
            tl.store(products + at + frame, new_product, mask=frame < frames)
            tl.store(products + half + at + frame, old_product, mask=frame < frames)
        if NEED_H:
            old_weight = ((tl.minimum(end, old + 1.0) - begin) * old_factor).to(tl.float32)
            new_weight = ((end - new) * new_factor).to(tl.float32)
            total = old_weight * old_grad + new_weight * new_grad
            # Tokens that this frame fills alone.
            between = old_token + 1
            stop = tl.minimum(new_token, given)
            while between < stop:
                whole = widen(tl.load(grad_source + between * grad_stride_slot, mask=channel < width, other=0.0))
                total += whole * tl.where(between == last_token, last_factor, factor).to(tl.float32)
                between += 1
            limit = tl.where(frame < frames, width, 0)
            tl.store(grad_h + (row * frames + frame) * width + channel, narrow(total, grad_h), mask=channel < limit)
        begin = end


@triton.jit
def grad_alpha_kernel(
    products,
    lengths,
    cum,
    given_lengths,
    overflow,
    scales,
    tail_scales,
    sums,  # [3, B, chunks]: of q - e, of gradient * alpha, of the tail's product
    grad_alpha,
    frames,
    blocks,
    stride_length,
    TOTALS: tl.constexpr,
    SCALED: tl.constexpr,
    TAIL: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS_ABOVE: tl.constexpr,
):
    """One program per (chunk, row); with TOTALS it only writes its chunk's sums for the launch that follows."""
    chunk, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    chunks = tl.num_programs(0)
    batch = tl.num_programs(1).to(tl.int64)
    length = tl.minimum(tl.maximum(tl.load(lengths + row * stride_length).to(tl.int64), 0), frames)
    frame = chunk.to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    valid = frame < length

    q = tl.zeros([CHUNK], dtype=tl.float64)
    e = tl.zeros([CHUNK], dtype=tl.float64)
    block = batch * 0
    while block < blocks:
        at = (block * batch + row) * frames + frame
        q += tl.load(products + at, mask=valid, other=0.0)
        e += tl.load(products + blocks * batch * frames + at, mask=valid, other=0.0)
        block += 1
    begin = tl.load(cum + row * frames + frame - 1, mask=valid & (frame > 0), other=0.0)
    end = tl.load(cum + row * frames + frame, mask=valid, other=0.0)
    difference = q - e

    # sum of gradient * (end - begin), with gradient_t = q_t + sum of the differences after t: summed the other way.
    weighted = q * (end - begin) + difference * begin
    last_token = (tl.load(given_lengths + row) + tl.load(overflow + row) - 1).to(tl.float64)
    in_tail = valid & (tl.floor(end) == last_token)
    product = tl.where(in_tail, (end - tl.maximum(begin, last_token)) * q, 0.0)
    own_difference = tl.sum(difference, 0)
    own_weighted = tl.sum(weighted, 0)
    own_product = tl.sum(product, 0)
    if TOTALS:
        at = sums + row * chunks + chunk
        tl.store(at, own_difference)
        tl.store(at + batch * chunks, own_weighted)
        tl.store(at + 2 * batch * chunks, own_product)
    else:
        if CHUNKS_ABOVE == 1:
            after = own_difference
            all_weighted = own_weighted
            all_product = own_product
        else:
            other = tl.arange(0, CHUNKS_ABOVE)
            exists = other < chunks
            at = sums + row * chunks + other
            after = tl.sum(tl.load(at, mask=exists & (other >= chunk), other=0.0), 0)
            all_weighted = tl.sum(tl.load(at + batch * chunks, mask=exists, other=0.0), 0)
            all_product = tl.sum(tl.load(at + 2 * batch * chunks, mask=exists, other=0.0), 0)
        gradient = q + after - tl.cumsum(difference, 0)
        if SCALED:
            total = tl.load(cum + row * frames + length - 1, mask=length > 0, other=0.0)
            gradient -= all_weighted / tl.where(total > 0, total, 1.0)
        if TAIL:
            tail_scale = tl.load(tail_scales + row)
            gradient -= tl.where(tail_scale != 1.0, all_product * tail_scale, 0.0)
        gradient = tl.where(valid, gradient * tl.load(scales + row), 0.0)
        tl.store(grad_alpha + row * frames + frame, gradient.to(tl.float32), mask=frame < frames)
