"""CIF in PyTorch's own operators, for CPUs and for any device without Triton.

A token is a weighted sum over (frame, weight) entries, and a frame's gradient one over (token, weight) entries: the
same list, grouped the other way. `embedding_bag` computes both at memory bandwidth. The few numbers of a plan are
computed by operators that start no threads (`index_select` and `gather`, not `x[index]`; no `searchsorted`, no
`repeat_interleave`): on a busy machine starting them costs milliseconds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from speechllm_kernels._common import accumulable, valid_frames
from speechllm_kernels.cif.token_plan import (
    BELOW,
    LARGEST_POSITION,
    Plan,
    Rules,
    count_tokens,
    scale_of,
    snap,
    sum_alpha,
    whole,
)


def plan(alpha: Tensor, lengths: Tensor, target_lengths: Tensor | None, slots: int, rules: Rules) -> Plan:
    frames = alpha.shape[1]
    lengths = lengths.long().clamp(0, frames)
    alpha_sum, prefix = sum_alpha(alpha, valid_frames(lengths, frames))
    scale = scale_of(prefix[:, -1], target_lengths, rules)
    cum = snap((prefix * scale[:, None]).clamp_(max=LARGEST_POSITION))
    needed, tail_scale = count_tokens(cum[:, -1], target_lengths, rules)
    given = needed.clamp(max=slots)

    # Token u is complete at the first frame with floor(cum) > u: as many frames have floor(cum) <= u.
    batch = len(alpha)
    row = torch.arange(batch, device=alpha.device)[:, None]
    at_hand = whole(cum).clamp_(max=slots) + row * (slots + 1)
    frames_at = torch.bincount(at_hand.view(-1), minlength=batch * (slots + 1)).view(batch, slots + 1)
    fire_frames = torch.minimum(frames_at.cumsum(1)[:, :slots], lengths[:, None] - 1)
    token = torch.arange(slots, device=alpha.device)
    fire_frames = torch.where(token < given[:, None], fire_frames, -1)
    if target_lengths is not None and rules.scale_eps == 0:
        cum = torch.minimum(cum, needed[:, None].double() * BELOW)
    return Plan(cum, fire_frames, given, needed - given, alpha_sum, scale, tail_scale)


def forward(h: Tensor, lengths: Tensor, plan: Plan, beta: float) -> Tensor:
    """
    Sums the frames of each token.

    :returns: [B, U, C]
    """
    batch, slots = plan.fire_frames.shape
    entries = _list_entries(lengths, plan, beta)
    flat = accumulable(h).reshape(-1, h.shape[2])
    sums = embedding_bag(
        entries.frame, flat, entries.offset, mode="sum", per_sample_weights=entries.weight.to(flat.dtype)
    )
    return sums.to(h.dtype).view(batch, slots, h.shape[2])


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
    """
    Gives the gradients of h [B, T, C] and alpha [B, T], where they are needed.

    :param scaled: whether alpha was scaled to a target.
    """
    batch, frames, width = h.shape
    entries = _list_entries(lengths, plan, rules.beta)
    flat_grad = accumulable(grad).reshape(-1, width)
    grad_h = grad_alpha = None
    if need_h:
        # Entries are in order of (row, token, frame), which is also that of (row, frame, token).
        per_frame = torch.bincount(entries.frame, minlength=batch * frames)
        sums = embedding_bag(
            entries.slot,
            flat_grad,
            per_frame.cumsum(0) - per_frame,
            mode="sum",
            per_sample_weights=entries.weight.to(flat_grad.dtype),
        )
        grad_h = sums.to(h.dtype).view(h.shape)
    if need_alpha:
        flat = accumulable(h).reshape(-1, width)
        dot = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            flat_grad, flat, entries.frame, entries.offset, entries.slot, 0
        )
        # A 0 at the end, read where a frame's token has no slot.
        dot = torch.nn.functional.pad(dot.double() * entries.factor, (0, 1))
        grad_alpha = _grad_alpha(dot, entries, lengths, plan, rules, scaled).to(alpha_dtype)
    return grad_h, grad_alpha


def _grad_alpha(dot: Tensor, entries: _Entries, lengths: Tensor, plan: Plan, rules: Rules, scaled: bool) -> Tensor:
    """[B, T] float64, see the README. `dot` holds <gradient of the token, frame> of each entry."""
    batch, frames = plan.cum.shape
    valid = valid_frames(lengths, frames)
    frame = torch.arange(frames, device=dot.device)
    before = _shift(plan.cum)

    def product_with(token: Tensor) -> Tensor:
        exists = valid & (token < plan.lengths[:, None])
        if plan.fire_frames.shape[1] == 0:
            return dot.new_zeros(batch, frames)
        token = torch.where(exists, token, 0)
        index = entries.offset.view(batch, -1).gather(1, token) + frame - entries.first.gather(1, token)
        return dot.gather(0, torch.where(exists, index, len(dot) - 1).view(-1)).view(batch, frames)

    q = product_with(whole(plan.cum))
    difference = torch.where(valid, q - product_with(whole(before)), 0)
    running = difference.cumsum(1)
    gradient = q + running[:, -1:] - running
    if rules.tail_renorm and rules.tail_renorm_grad and not scaled:
        last = plan.lengths + plan.overflow - 1
        in_tail = whole(plan.cum) == last[:, None]
        inside = plan.cum - torch.maximum(before, last[:, None].double())
        product = torch.where(in_tail & valid, inside * q, 0).cumsum(1)[:, -1]
        gradient = gradient - torch.where(plan.tail_scale != 1, product * plan.tail_scale, 0)[:, None]
    if scaled:
        total = plan.cum[:, -1:]
        # `cumsum`: the order in which `sum` adds depends on the padding.
        mean = torch.where(valid, gradient * (plan.cum - before), 0).cumsum(1)[:, -1:]
        gradient = gradient - mean / torch.where(total > 0, total, 1)
    return torch.where(valid, plan.scale[:, None] * gradient, 0)


class _Entries(NamedTuple):
    """The (token, frame) pairs that share weight, in order; N of them."""

    frame: Tensor
    """[N]: index into the B x T frames."""
    slot: Tensor
    """[N]: index into the B x U slots."""
    weight: Tensor
    """[N] float64: alpha that the frame gives to the token, times the token's factor."""
    factor: Tensor
    """[N] float64: beta, times the tail's factor where it applies."""
    offset: Tensor
    """[B x U]: index of each slot's first entry."""
    first: Tensor
    """[B, U]: first frame of each token."""


def _list_entries(lengths: Tensor, plan: Plan, beta: float) -> _Entries:
    batch, frames = plan.cum.shape
    slots = plan.fire_frames.shape[1]
    device = plan.cum.device
    lengths = lengths.long().clamp(0, frames)
    row = torch.arange(batch, device=device)[:, None]
    token = torch.arange(slots, device=device)
    # The last token reaches to the end of its row, also over frames without weight behind the one that completed it.
    ends_here = token == whole(plan.cum[:, -1:])
    last = torch.where(ends_here, lengths[:, None] - 1, plan.fire_frames)
    first = torch.nn.functional.pad(plan.fire_frames, (1, 0))[:, :slots].clamp(min=0)
    count = torch.where(token < plan.lengths[:, None], last - first + 1, 0).clamp_(min=0).view(-1)
    offset = count.cumsum(0) - count
    is_last = token == (plan.lengths + plan.overflow - 1)[:, None]
    slot_factor = torch.where(is_last, beta * plan.tail_scale[:, None], beta)

    entries = int(count.sum())
    slot = torch.bincount(offset, minlength=entries + 1)[:entries].cumsum(0) - 1
    shift = (first + row * frames).view(-1) - offset
    frame = torch.arange(entries, device=device) + shift.index_select(0, slot)
    begin = _shift(plan.cum).reshape(-1).index_select(0, frame)
    end = plan.cum.reshape(-1).index_select(0, frame)
    u = slot % max(slots, 1)
    weight = (torch.minimum(end, u + 1) - torch.maximum(begin, u)).clamp_(min=0)
    factor = slot_factor.view(-1).index_select(0, slot)
    return _Entries(frame, slot, weight * factor, factor, offset, first)


def _shift(cum: Tensor) -> Tensor:
    """Position at the beginning of each frame."""
    return torch.nn.functional.pad(cum[:, :-1], (1, 0))
