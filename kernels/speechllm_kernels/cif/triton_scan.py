"""First kernel: prefix sums of alpha, the frames at which tokens are complete, and the number of tokens."""

# Triton gives a kernel's arguments their types.
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechllm_kernels._triton_numbers import double
from speechllm_kernels.cif.token_plan import BELOW, LARGEST_ALPHA, LARGEST_POSITION, SNAP, Plan, Rules

# Fixed, whatever T: a row's sums have the same bits alone and in a batch.
CHUNK = 2048
WARPS = 8


def plan(alpha: Tensor, lengths: Tensor, target_lengths: Tensor | None, slots: int, rules: Rules) -> Plan:
    batch, frames = alpha.shape
    device = alpha.device
    result = Plan(
        cum=torch.empty(batch, frames, dtype=torch.float64, device=device),
        fire_frames=torch.empty(batch, slots, dtype=torch.int64, device=device),
        lengths=torch.empty(batch, dtype=torch.int64, device=device),
        overflow=torch.empty(batch, dtype=torch.int64, device=device),
        alpha_sum=torch.empty(batch, dtype=torch.float32, device=device),
        scale=torch.empty(batch, dtype=torch.float64, device=device),
        tail_scale=torch.empty(batch, dtype=torch.float64, device=device),
    )
    chunks = triton.cdiv(frames, CHUNK)
    sums = torch.empty(2, batch, chunks, dtype=torch.float64, device=device) if chunks > 1 else result.scale
    source = (alpha, lengths, sums, frames, alpha.stride(0), alpha.stride(1), lengths.stride(0))
    if chunks > 1:
        chunk_sums_kernel[(chunks, batch)](*source, LARGEST=LARGEST_ALPHA, CHUNK=CHUNK, num_warps=WARPS)
    plan_kernel[(chunks, batch)](
        *source,
        target_lengths if target_lengths is not None else lengths,
        target_lengths.stride(0) if target_lengths is not None else 0,
        *result,
        slots,
        # Thresholds are constants of the compiler: a float argument of a kernel would become float32.
        BETA=rules.beta,
        SCALE_EPS=rules.scale_eps,
        # Never reached above 1: a tail is less than a token.
        THRESHOLD=min(rules.tail_threshold, 2.0),
        SCALED=target_lengths is not None,
        STRICT=rules.tail_strict,
        RENORM=rules.tail_renorm,
        SNAP=SNAP,
        BELOW=BELOW,
        LARGEST=LARGEST_ALPHA,
        LARGEST_POSITION=LARGEST_POSITION,
        CHUNK=CHUNK,
        CHUNKS_ABOVE=triton.next_power_of_2(chunks),
        num_warps=WARPS,
    )
    return result


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _snap(position, SNAP: tl.constexpr):
    nearest = tl.floor(position + 0.5)
    return tl.where(tl.abs(position - nearest) < double(SNAP), nearest, position)


@triton.jit
def _load_alpha(alpha, frame, length, stride_row, stride_frame, LARGEST: tl.constexpr):
    """Alpha, and alpha with 0 for negative and non-finite values; both 0 in the padding."""
    row = tl.program_id(1).to(tl.int64)
    plain = tl.load(alpha + row * stride_row + frame * stride_frame, mask=frame < length, other=0.0).to(tl.float64)
    return plain, tl.where((plain >= 0) & (plain < double(LARGEST)), plain, 0.0)


@triton.jit
def chunk_sums_kernel(
    alpha,
    lengths,
    sums,  # [2, B, chunks]: plain, and what counts
    frames,
    stride_row,
    stride_frame,
    stride_length,
    LARGEST: tl.constexpr,
    CHUNK: tl.constexpr,
):
    chunk, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    chunks = tl.num_programs(0)
    length = tl.minimum(tl.maximum(tl.load(lengths + row * stride_length).to(tl.int64), 0), frames)
    frame = chunk.to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    plain, usable = _load_alpha(alpha, frame, length, stride_row, stride_frame, LARGEST)
    at = row * chunks + chunk
    tl.store(sums + at, tl.sum(plain, 0))
    tl.store(sums + tl.num_programs(1) * chunks + at, tl.sum(usable, 0))


@triton.jit
def plan_kernel(
    alpha,
    lengths,
    sums,
    frames,
    stride_row,
    stride_frame,
    stride_length,
    targets,
    stride_target,
    cum,
    fire_frames,
    given_lengths,
    overflow,
    alpha_sum,
    scales,
    tail_scales,
    slots,
    BETA: tl.constexpr,
    SCALE_EPS: tl.constexpr,
    THRESHOLD: tl.constexpr,
    SCALED: tl.constexpr,
    STRICT: tl.constexpr,
    RENORM: tl.constexpr,
    SNAP: tl.constexpr,
    BELOW: tl.constexpr,
    LARGEST: tl.constexpr,
    LARGEST_POSITION: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS_ABOVE: tl.constexpr,
):
    """One program per (chunk, row). Each recomputes the row's totals from the sums of its chunks: a few numbers."""
    chunk, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    chunks = tl.num_programs(0)
    length = tl.minimum(tl.maximum(tl.load(lengths + row * stride_length).to(tl.int64), 0), frames)
    index = tl.arange(0, CHUNK)
    frame = chunk.to(tl.int64) * CHUNK + index
    plain, usable = _load_alpha(alpha, frame, length, stride_row, stride_frame, LARGEST)

    if CHUNKS_ABOVE == 1:
        plain_total = tl.sum(plain, 0)
        total = tl.sum(usable, 0)
        begin = total * 0
        end = total
    else:
        other = tl.arange(0, CHUNKS_ABOVE)
        at = row * chunks + other
        plain_total = tl.sum(tl.load(sums + at, mask=other < chunks, other=0.0), 0)
        parts = tl.load(sums + tl.num_programs(1) * chunks + at, mask=other < chunks, other=0.0)
        total = tl.sum(parts, 0)
        # Neighbours compute their common border in the same way: to the same bits.
        begin = tl.sum(tl.where(other < chunk, parts, 0.0), 0)
        end = tl.sum(tl.where(other <= chunk, parts, 0.0), 0)

    if SCALED:
        target = tl.maximum(tl.load(targets + row * stride_target).to(tl.int64), 0)
        wanted = target.to(tl.float64) + double(SCALE_EPS / BETA)
        scale = tl.where(total > 0, wanted / tl.where(total > 0, total, 1.0), 0.0)
    else:
        scale = double(1.0 / BETA)
    row_end = _snap(tl.minimum(total * scale, double(LARGEST_POSITION)), SNAP)
    full = tl.floor(row_end)
    tail_scale = double(1.0)
    if SCALED:
        needed = target
    else:
        tail = row_end - full
        threshold = double(THRESHOLD)
        enough = tail - double(SNAP) > threshold if STRICT else tail + double(SNAP) >= threshold
        fires = (tail > 0) & enough
        needed = full.to(tl.int64) + fires.to(tl.int64)
        if RENORM:
            tail_scale = tl.where(fires, 1.0 / tl.where(fires, tail, 1.0), 1.0)
    given = tl.minimum(needed, slots)

    # A tree of sums may decrease by rounding, and a token would be complete twice.
    prefix = tl.minimum(begin + tl.cumsum(usable, 0), end)
    prefix = tl.where((index == CHUNK - 1) | (frame >= length - 1), end, prefix)
    prefix = tl.associative_scan(prefix, 0, _larger)
    position = _snap(tl.minimum(prefix * scale, double(LARGEST_POSITION)), SNAP)
    before = tl.gather(position, tl.maximum(index - 1, 0), 0)
    before = tl.where(index == 0, _snap(tl.minimum(begin * scale, double(LARGEST_POSITION)), SNAP), before)
    stored = position
    if SCALED and SCALE_EPS == 0:
        stored = tl.minimum(position, target.to(tl.float64) * double(BELOW))
    tl.store(cum + row * frames + frame, stored, mask=frame < frames)

    # The frames that complete tokens are their only writers.
    token = tl.floor(before).to(tl.int64)
    stop = tl.minimum(tl.floor(position).to(tl.int64), given)
    rounds = tl.max(tl.where(frame < length, stop - token, 0), 0)
    fire_row = fire_frames + row * slots
    while rounds > 0:
        tl.store(fire_row + token, frame, mask=(token < stop) & (frame < length))
        token += 1
        rounds -= 1
    # The chunks share the slots that no frame completes.
    start = chunk.to(tl.int64) * CHUNK
    completed = tl.minimum(full.to(tl.int64), given)
    while start < slots:
        slot = start + index
        value = tl.where(slot < given, length - 1, -1)
        tl.store(fire_row + slot, value, mask=(slot >= completed) & (slot < slots))
        start += chunks * CHUNK

    if chunk == 0:
        tl.store(given_lengths + row, given)
        tl.store(overflow + row, needed - given)
        tl.store(alpha_sum + row, plain_total.to(tl.float32))
        tl.store(scales + row, scale)
        tl.store(tail_scales + row, tail_scale)
