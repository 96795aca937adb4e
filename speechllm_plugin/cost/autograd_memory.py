"""The memory that autograd keeps from the forward to the backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """Adds up the memory of the tensors that autograd keeps, without the weights of `module`; a tensor that is kept
    twice counts once."""

    def __init__(self, module: nn.Module, layers: Iterable[nn.Module] = ()) -> None:
        """:param layers: the layers of `module` that activation checkpointing would run again."""
        self._seen: dict[int, Tensor] = {weight.untyped_storage()._cdata: weight for weight in module.parameters()}
        self._layers = list(layers)
        self._within: list[int] = []
        self._inputs = 0
        self._is_within = False
        self._hooks: list[Any] = []
        self.total = 0
        super().__init__(self._keep, lambda tensor: tensor)

    @property
    def recomputed(self) -> int:
        """Bytes that are kept with activation checkpointing at the worst moment: the input of each layer, everything
        outside of the layers, and all of the layer that is being run again."""
        return self.total - sum(self._within) + self._inputs + max(self._within, default=0)

    def __enter__(self) -> None:
        super().__enter__()
        for layer in self._layers:
            self._hooks.append(layer.register_forward_pre_hook(self._enter_layer, with_kwargs=True))
            self._hooks.append(layer.register_forward_hook(self._leave_layer))

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)

    def _enter_layer(self, layer: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        tensors = [value for value in (*inputs, *options.values()) if isinstance(value, Tensor) and value.requires_grad]
        self._inputs += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self._within.append(0)
        self._is_within = True

    def _leave_layer(self, *_: Any) -> None:
        self._is_within = False

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = tensor  # alive, so that no other storage gets its address
            self.total += storage.nbytes()
            if self._is_within:
                self._within[-1] += storage.nbytes()
        return tensor
