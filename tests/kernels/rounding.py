"""What the kernels' tests ask of a result in half precision: an accurate sum, rounded once."""

from __future__ import annotations

import torch
from torch import Tensor

# Of sums in float32, relative to the largest.
SLACK = 3e-6


def assert_rounded_once(name: str, value: Tensor, exact: Tensor) -> None:
    """
    Asserts that each number is off by at most half a unit in its last place, beside the error of a float32 sum.

    :param exact: the same in float64. One unit is the distance of two numbers of value's dtype there.
    """
    assert value.shape == exact.shape, name
    if value.numel() == 0:
        return
    kind = torch.finfo(value.dtype)
    value, exact = value.detach().double(), exact.detach().double()
    binade = torch.frexp(exact.abs().clamp(min=kind.smallest_normal)).exponent - 1
    half_a_unit = torch.ldexp(torch.full_like(exact, kind.eps / 2), binade)
    excess = (value - exact).abs() - half_a_unit - SLACK * exact.abs().max()
    assert (excess <= 0).all(), f"{name} is off by {excess.max():.1e} more than rounding"
