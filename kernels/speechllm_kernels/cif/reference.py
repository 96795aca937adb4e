"""CIF as its definition reads: dense, in float64, differentiated by autograd. The oracle of tests and benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from speechllm_kernels._common import valid_frames
from speechllm_kernels.cif.token_plan import LARGEST_POSITION, Plan, Rules, count_tokens, scale_of, snap, sum_alpha


def plan(alpha: Tensor, lengths: Tensor, target_lengths: Tensor | None, slots: int, rules: Rules) -> Plan:
    """See `Plan`. Differentiable, unlike that of the fast backends."""
    frames = alpha.shape[1]
    lengths = lengths.clamp(0, frames)
    valid = valid_frames(lengths, frames)
    alpha_sum, prefix = sum_alpha(alpha, valid)
    scale = scale_of(prefix[:, -1], target_lengths, rules)
    cum = snap((prefix * scale[:, None]).clamp(max=LARGEST_POSITION))
    needed, tail_scale = count_tokens(cum[:, -1], target_lengths, rules)
    given = needed.clamp(max=slots)

    token = torch.arange(slots, device=alpha.device)
    complete = (cum[:, :, None] >= token + 1) & valid[:, :, None]  # (B, T, U)
    first_complete = torch.where(complete.any(1), complete.byte().argmax(1), lengths[:, None] - 1)
    fire_frames = torch.where(token < given[:, None], first_complete, -1)
    return Plan(cum, fire_frames, given, needed - given, alpha_sum, scale, tail_scale)


def integrate(h: Tensor, lengths: Tensor, plan: Plan, target_lengths: Tensor | None, rules: Rules) -> Tensor:
    """
    Sums the frames of each token.

    :returns: [B, U, C]
    """
    frames, slots = h.shape[1], plan.fire_frames.shape[1]
    valid = valid_frames(lengths, frames)[:, :, None]
    token = torch.arange(slots, device=h.device)
    # How full is token u after frame t? (B, T, U). On a threshold the derivative is that of the token which begins.
    above = plan.cum[:, :, None] - token
    full = above >= 1
    if target_lengths is not None and rules.scale_eps == 0:
        # The last token has no upper threshold: it takes all that is left.
        full = full & (token < target_lengths[:, None] - 1)[:, None, :]
    fill = torch.where(full, 1, torch.where(above >= 0, above, 0))
    weight = fill.diff(dim=1, prepend=fill.new_zeros(fill.shape[0], 1, slots))
    weight = torch.where(valid & (token < plan.lengths[:, None])[:, None, :], weight, 0)

    last = token == (plan.lengths + plan.overflow - 1)[:, None]
    factor = rules.beta * torch.where(last, plan.tail_scale[:, None], 1)
    clean = torch.where(valid, h.double(), 0)
    return (factor[:, :, None] * (weight.transpose(1, 2) @ clean)).to(h.dtype)
