"""What every backend agrees on before a vector is summed: where tokens begin and end, and how many there are.

Positions are counted in tokens: `cum[b, t]` is the scaled prefix sum of alpha over beta, so that token u fills the
interval (u, u + 1] of it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

# A position this close to a threshold is on it. Backends sum in different orders; in float64, over up to a million
# frames, their sums differ by less.
SNAP: Final = 2.0**-30
# Keeps indices in range for absurd alphas; never reached by data.
LARGEST_ALPHA: Final = 2.0**100
LARGEST_POSITION: Final = 2.0**50
# Times the last threshold: where a row that is scaled to its target ends, so that its last token takes all the rest.
BELOW: Final = 1 - 2.0**-51


class Rules(NamedTuple):
    """The options, reduced to numbers that an operator's schema can hold."""

    beta: float
    scale_eps: float
    tail_threshold: float
    """In tokens; infinite when tails are dropped."""
    tail_strict: bool
    tail_renorm: bool
    tail_renorm_grad: bool


class Plan(NamedTuple):
    """B rows, T frames, U slots."""

    cum: Tensor
    """[B, T] float64: position at the end of each frame; constant over the padding."""
    fire_frames: Tensor
    """[B, U] int64: frame at which a token was complete; a tail's or an unfilled token's is the last of its row;
    -1 for unused slots."""
    lengths: Tensor
    """[B] int64: tokens given, at most U."""
    overflow: Tensor
    """[B] int64: tokens that U had no room for."""
    alpha_sum: Tensor
    """[B] in the dtype of alpha: sum of the unscaled alpha."""
    scale: Tensor
    """[B] float64: alpha -> tokens."""
    tail_scale: Tensor
    """[B] float64: factor of the row's last token: 1, or 1 / its weight for a rescaled tail."""


def sum_alpha(alpha: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """
    Gives the plain sum over valid frames [B] and the float64 prefix sum [B, T] that positions come from.

    Negative and non-finite alphas count as 0 in the latter: indices stay in range, while NaN shows in the sum.
    """
    wide = alpha.double()
    usable = valid & (wide >= 0) & (wide < LARGEST_ALPHA)
    # `cumsum` throughout: the order in which `sum` adds depends on the padding.
    alpha_sum = torch.where(valid, wide, 0).cumsum(1)[:, -1]
    prefix = torch.where(usable, wide, 0).cumsum(1)
    return alpha_sum.to(alpha.dtype), prefix


def scale_of(total: Tensor, target_lengths: Tensor | None, rules: Rules) -> Tensor:
    """[B]: tokens per unit of alpha; 0 for a row that has a target but no weight."""
    if target_lengths is None:
        return torch.full_like(total, 1 / rules.beta)
    wanted = target_lengths.clamp(min=0).double() + rules.scale_eps / rules.beta
    return torch.where(total > 0, wanted / torch.where(total > 0, total, 1), 0)


def whole(position: Tensor) -> Tensor:
    """`floor` as int64, of positions, which are never negative. `torch.floor` would start threads for a few numbers."""
    return position.long()


def snap(position: Tensor) -> Tensor:
    """Moves positions next to a threshold onto it; the gradient passes unchanged."""
    exact = position.detach()
    nearest = whole(exact + 0.5).double()
    return position + torch.where((exact - nearest).abs() < SNAP, nearest - exact, 0)


def count_tokens(end: Tensor, target_lengths: Tensor | None, rules: Rules) -> tuple[Tensor, Tensor]:
    """
    Gives the tokens that each row makes, [B] int64, and the factor of its last one, [B] float64.

    :param end: [B] position at the end of the row.
    """
    full = whole(end.detach())
    if target_lengths is not None:
        return target_lengths.long().clamp(min=0), torch.ones_like(end)
    tail = end - full
    weight = tail.detach()
    enough = weight - SNAP > rules.tail_threshold if rules.tail_strict else weight + SNAP >= rules.tail_threshold
    fires = (weight > 0) & enough
    factor = torch.ones_like(end)
    if rules.tail_renorm:
        factor = torch.where(fires, 1 / torch.where(fires, tail, 1), 1)
        factor = factor if rules.tail_renorm_grad else factor.detach()
    return full + fires, factor
