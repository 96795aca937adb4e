"""First kernel: the label of each frame and its probability, from logits that are read once. And back.

Each logit costs a maximum and, if probabilities are wanted, one exponential.
"""

# Triton gives a kernel's arguments their types.
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechllm_kernels._triton_numbers import narrow, widen
from speechllm_kernels.ctc_collapse.steps import FrameLabels

LANES = 512  # one wide load each
BYTES_PER_LANE = 16
LARGEST_BLOCK = 4096  # logits of a program of the backward pass
WARPS = 4


def label_frames(logits: Tensor, lengths: Tensor, probabilities: bool) -> FrameLabels:
    batch, frames, vocabulary = logits.shape
    result = FrameLabels.empty(logits, probabilities)
    vector = BYTES_PER_LANE // logits.element_size()
    with torch.cuda.device_of(logits):
        ctc_label_frames_kernel[(batch * frames,)](
            logits,
            lengths,
            *result,
            frames,
            vocabulary,
            *logits.stride(),
            PROBABILITIES=probabilities,
            LANES=LANES,
            VECTOR=vector,
            TILES=triton.next_power_of_2(triton.cdiv(vocabulary, LANES * vector)),
            num_warps=WARPS,
        )
    return result


def label_frames_backward(grad: Tensor, logits: Tensor, lengths: Tensor, found: FrameLabels) -> Tensor:
    batch, frames, vocabulary = logits.shape
    result = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    block = min(LARGEST_BLOCK, triton.next_power_of_2(vocabulary))
    with torch.cuda.device_of(logits):
        ctc_label_frames_backward_kernel[(batch * frames, triton.cdiv(vocabulary, block))](
            grad,
            logits,
            lengths,
            *found,
            result,
            frames,
            vocabulary,
            *grad.stride(),
            *logits.stride(),
            BLOCK=block,
            num_warps=WARPS,
        )
    return result


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

    The place of the maximum is found afterwards: each lane keeps the tile in which its own maximum rose last, and the
    lanes that hold the maximum read theirs again.
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
        x = widen(tl.load(base + (index * TILE + place).to(tl.int64) * stride_v))
        top = tl.max(x, axis=1)
        new = tl.maximum(best, top)
        if PROBABILITIES:
            finite = tl.where(new == float("-inf"), 0.0, new)
            total = total * tl.exp(best - finite) + tl.sum(tl.exp(x - finite[:, None]), axis=1)
        tile = tl.where(top > best, index, tile)
        best = new
    tail = whole * TILE + place
    x = widen(tl.load(base + tail.to(tl.int64) * stride_v, mask=tail < size, other=float("-inf")))
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
    x = widen(tl.load(base + again.to(tl.int64) * stride_v, mask=mask, other=float("-inf")))
    lowest = tl.min(tl.min(tl.where(mask & (x == most), again, vocabulary - 1), axis=1), axis=0)
    tl.store(labels + row, tl.where(inside, lowest, -1).to(tl.int64))
    if PROBABILITIES:
        # The sum of the label's lane holds exp(0) = 1, beside which small terms are lost: the lane is read again and
        # summed without it, so that 1 - p is accurate even where p rounds to 1.
        finite_most = tl.where(most == float("-inf"), 0.0, most)
        own = (lowest % TILE) // VECTOR
        others = tl.where(tl.arange(0, LANES) == own, 0.0, total * tl.exp(best - finite_most))
        lane = (tl.arange(0, TILES) * TILE + own * VECTOR)[:, None] + tl.arange(0, VECTOR)[None, :]
        x = widen(tl.load(base + lane.to(tl.int64) * stride_v, mask=lane < size, other=float("-inf")))
        powers = tl.where(lane == lowest, 0.0, tl.exp(x - finite_most))
        remaining = tl.sum(others, axis=0) + tl.sum(tl.sum(powers, axis=1), axis=0)
        # log1p(r): the rounding of 1 + r is compensated.
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
    source = logits + batch * stride_b + t * stride_t + v.to(tl.int64) * stride_v
    x = widen(tl.load(source, mask=v < tl.where(inside, vocabulary, 0), other=float("-inf")))
    p = tl.load(probability + row)
    scale = tl.load(grad + batch * stride_gb + t * stride_gt, mask=inside, other=0.0) * p
    own = tl.load(rest + row) * p
    value = scale * tl.where(v == tl.load(labels + row), own, -tl.exp(x - tl.load(sums + row)))
    tl.store(result + row * vocabulary + v, narrow(value, result), mask=v < vocabulary)
