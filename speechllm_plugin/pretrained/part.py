"""The common base of speech encoders and LLMs, which are pretrained, and frozen except for tuned weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


class PretrainedPart(nn.Module):
    tuned: bool = False
    """Whether some of its weights are trained, so that gradients must reach them."""
    follows_autocast: bool = False
    """Whether it is trained under autocast. True for a tuned part in float32, which would otherwise be slow."""
    recomputes: bool = False
    """Whether the layers of `layer_lists` are run again in the backward pass (activation checkpointing)."""

    def precision(self, device_type: str) -> AbstractContextManager[object]:
        """Switches autocast off unless the part follows it: the part then computes in the dtype of its own weights."""
        return nullcontext() if self.follows_autocast else torch.autocast(device_type, enabled=False)

    def layer_lists(self) -> list[nn.ModuleList]:
        """The layers that activation checkpointing takes one by one."""
        return _outer_lists(self)


def cast(model: Any, dtype: torch.dtype) -> Any:
    """The model in `dtype`. A model that has the dtype already is not touched, since PyTorch 2.13 refuses to swap some
    parameters without memory."""
    return model if next(model.parameters()).dtype == dtype else model.to(dtype)


def rounds(*parts: nn.Module) -> bool:
    """Whether a part computes in half precision, in which the shape of a batch changes results."""
    return any(weight.dtype in (torch.bfloat16, torch.float16) for part in parts for weight in part.parameters())


def _outer_lists(module: nn.Module) -> list[nn.ModuleList]:
    """The outermost lists of layers: a list inside a layer belongs to the layer."""
    if isinstance(module, nn.ModuleList):
        return [module]
    return [layers for child in module.children() for layers in _outer_lists(child)]
