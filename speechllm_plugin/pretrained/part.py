"""What a speech encoder and an LLM have in common: both are pretrained, and frozen but for what is tuned."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


class PretrainedPart(nn.Module):
    tuned: bool = False
    """Whether some of its weights are trained: gradients must reach them."""
    follows_autocast: bool = False
    """Whether it is trained under autocast. True for a tuned part in float32, which would otherwise be slow."""
    recomputes: bool = False
    """Whether the layers of `layer_lists` are run again in the backward pass (activation checkpointing)."""

    def precision(self, device_type: str) -> AbstractContextManager[object]:
        """Without autocast a part computes in the dtype of its own weights."""
        return nullcontext() if self.follows_autocast else torch.autocast(device_type, enabled=False)

    def layer_lists(self) -> list[nn.ModuleList]:
        """The layers that activation checkpointing takes one by one."""
        return _outer_lists(self)


def cast(model: Any, dtype: torch.dtype) -> Any:
    """A model in `dtype`. One that is in it already is left alone: PyTorch 2.13 refuses to swap some parameters that
    have no memory."""
    return model if next(model.parameters()).dtype == dtype else model.to(dtype)


def rounds(*parts: nn.Module) -> bool:
    """Whether a part computes in half precision, where the shape of a batch shows in the results."""
    return any(weight.dtype in (torch.bfloat16, torch.float16) for part in parts for weight in part.parameters())


def _outer_lists(module: nn.Module) -> list[nn.ModuleList]:
    """A list inside a layer belongs to the layer."""
    if isinstance(module, nn.ModuleList):
        return [module]
    return [layers for child in module.children() for layers in _outer_lists(child)]
