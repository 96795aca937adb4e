"""A CUDA device that is not there: its tensors say that they are on it and are held on the CPU, and what the host asks
of it is counted. So a machine without a GPU sees what a training step on one waits for, and that nothing is mixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("cuda", 0)
_READ = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "equal"}
"""Operators whose result, or its shape, the host waits for."""


class OnDevice(Tensor):
    """To autograd it is a tensor of the device `meta`, which needs no driver."""

    held: Tensor
    device = DEVICE  # type: ignore[assignment]
    is_cuda = True  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device="meta", requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of the stand-in device")


class StandIn(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        """What the host waited for."""
        self.waiting_copies: list[str] = []
        """Copies to the device for which the host waited, or from memory that is not pinned."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:  # of tensors made in inference mode, operators that are made of others come whole
            if (result := func.decompose(*args, **kwargs or {})) is not NotImplemented:
                return result
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        flat = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = any(isinstance(leaf, OnDevice) for leaf in flat)
        target = kwargs.get("device")
        if target is not None and torch.device(target).type == "meta":  # as C++ sees what is on the device
            target = kwargs["device"] = DEVICE
        target = None if target is None else torch.device(target)
        if name == "_to_copy" and target is not None:
            return self._copy(func, args[0], target, kwargs)
        if name == "copy_" and len({leaf.device.type for leaf in flat}) > 1:
            raise AssertionError("a copy between devices in place")
        if target is not None and target.type == "cuda":
            kwargs["device"], there = torch.device("cpu"), True
        if not there:
            return func(*args, **kwargs)
        if mixed := [leaf for leaf in flat if not isinstance(leaf, OnDevice) and leaf.dim() > 0]:
            raise AssertionError(f"{func}: a tensor of shape {tuple(mixed[0].shape)} is on the host")
        by_mask = name == "index" and any(part is not None and part.dtype == torch.bool for part in args[1])
        if name in _READ or by_mask:
            self.reads.append(name)
        if name == "_fused_sdp_choice":
            return 0  # by products: there is no other kernel for what says that it is on CUDA
        if func.namespace == "speechllm_kernels":
            args = tuple("torch" if argument == "triton" else argument for argument in args)
        held = {id(leaf.held): leaf for leaf in flat if isinstance(leaf, OnDevice)}
        result = func(*_unwrapped(args), **_unwrapped(kwargs))

        def wrapped(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return held[id(leaf)] if id(leaf) in held else OnDevice(leaf)

        return tree_map(wrapped, result)

    def _copy(self, func: Any, source: Tensor, target: torch.device, kwargs: dict[str, Any]) -> Tensor:
        later = kwargs.get("non_blocking", False)
        kwargs["device"] = torch.device("cpu")
        result: Tensor = func(_unwrapped(source), **kwargs)
        if target.type == "cuda":
            if not isinstance(source, OnDevice) and not (later and getattr(source, "pinned", False)):
                self.waiting_copies.append(f"{tuple(source.shape)} {source.dtype}")
            return OnDevice(result)
        if isinstance(source, OnDevice) and not later:
            self.reads.append("copy")
        return result


def _unwrapped(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.held if isinstance(leaf, OnDevice) else leaf, tree)


def moved(model: nn.Module) -> None:
    """Takes a model to the device, in place."""
    model._apply(lambda tensor: OnDevice(tensor.detach()))


class _Stream:
    def __init__(self, device: object = None) -> None: ...
    def wait_stream(self, other: object) -> None: ...
    def record(self) -> None: ...
    def synchronize(self) -> None: ...


@contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Within, tensors can be taken to `DEVICE`."""
    def pin(tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        copy.pinned = True  # type: ignore[attr-defined]
        return copy

    make = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        if device is None or torch.device(device).type == "cpu":
            return make(data, device=device, **options)
        made = make(data, **options)
        if made.numel():
            mode.waiting_copies.append(f"torch.tensor of {tuple(made.shape)}")
        return OnDevice(made)

    answers: dict[str, Callable[..., Any]] = {
        "Stream": _Stream, "Event": _Stream, "stream": lambda stream: nullcontext(),
        "current_stream": lambda device=None: _Stream(), "_lazy_init": lambda: None,
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: None)
    # The engine has no thread for a device that is not there.
    with StandIn() as mode, torch.autograd.set_multithreading_enabled(False):
        yield mode
