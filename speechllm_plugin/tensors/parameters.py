"""Numbers of parameters."""

from __future__ import annotations

from torch import nn


def count_parameters(*modules: nn.Module | None, trained: bool = False) -> int:
    """:param trained: whether to count only parameters with gradients."""
    parts = [module for module in modules if module is not None]
    return sum(weight.numel() for part in parts for weight in part.parameters() if weight.requires_grad or not trained)
