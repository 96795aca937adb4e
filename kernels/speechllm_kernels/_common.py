"""What both kernels share: the choice of a backend and the checks of arguments."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any, Final, Literal

import torch
from torch import Tensor

from speechllm_kernels.exporting import is_exporting

Backend = Literal["auto", "reference", "torch", "triton", "dense"]

BACKENDS: Final = ("auto", "reference", "torch", "triton", "dense")
# Read once: Triton itself looks at the variable when a kernel is defined, and torch.compile cannot trace the look-up.
_TRITON_INSTALLED: Final = importlib.util.find_spec("triton") is not None
_TRITON_INTERPRETED: Final = os.environ.get("TRITON_INTERPRET") == "1"

DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Operator:
    """
    A function as an operator that autograd, `torch.compile` and fake tensors see. Where none of them is active, the
    function is called directly: the first call of a custom operator imports PyTorch's compiler, which takes seconds.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._function = function
        self.definition = torch.library.custom_op(name, function, mutates_args=())
        self.register_fake = self.definition.register_fake
        self.register_autograd = self.definition.register_autograd

    def __call__(self, *arguments: Any) -> Any:
        if torch.compiler.is_compiling() or any(map(_is_seen, arguments)):
            return self.definition(*arguments)
        return self._function(*arguments)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Makes an `Operator` of a function."""
    return lambda function: Operator(name, function)


def _is_seen(argument: object) -> bool:
    if not isinstance(argument, Tensor):
        return False
    return type(argument) not in (Tensor, torch.nn.Parameter) or (argument.requires_grad and torch.is_grad_enabled())


def resolve_backend(backend: str, tensor: Tensor) -> str:
    """
    Gives `reference`, `torch`, `triton` or `dense`.

    Only `auto` chooses: Triton for a CUDA tensor where Triton is installed, torch otherwise. (Triton has no float64
    path: `auto` takes torch for it.) Under `torch.export` it is `dense`: operators of PyTorch's own on tensors whose
    shapes follow from those of the inputs, which other programs have, too.

    :raises ValueError: an unknown name, or `triton` for a tensor that Triton cannot take. A CPU tensor needs Triton's
        interpreter (`TRITON_INTERPRET=1` in the environment before the first import of Triton).
    """
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}, but is {backend!r}.")
    if backend == "auto":
        if is_exporting():
            return "dense"
        return "triton" if tensor.is_cuda and _TRITON_INSTALLED and tensor.dtype != torch.float64 else "torch"
    if backend == "triton":
        if not _TRITON_INSTALLED:
            raise ValueError("`backend` is 'triton', but Triton is not installed.")
        if tensor.dtype == torch.float64:
            raise ValueError(
                "`backend` is 'triton', which takes float32, bfloat16 and float16, but the input is float64."
            )
        if not tensor.is_cuda and not _TRITON_INTERPRETED:
            raise ValueError(
                f"`backend` is 'triton', but the input is on {tensor.device}; expected a CUDA device, "
                "or Triton's interpreter (TRITON_INTERPRET=1)."
            )
    return backend


def check_sequences(name: str, seqs: Tensor) -> None:
    """A floating-point tensor [B, T, C], none of them 0."""
    if seqs.ndim != 3 or 0 in seqs.shape:
        raise ValueError(f"`{name}` must be of shape [B, T, C], none of them 0, but is {list(seqs.shape)}.")
    if seqs.dtype not in DTYPES:
        expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ValueError(f"`{name}` must be one of {expected}, but is {str(seqs.dtype).removeprefix('torch.')}.")


def check_like(name: str, tensor: Tensor, shape: tuple[int, ...], like_name: str, like: Tensor) -> None:
    """A tensor of the given shape on the same device as another argument."""
    if tuple(tensor.shape) != shape:
        raise ValueError(
            f"`{name}` must be of shape {list(shape)} to match `{like_name}`, but is {list(tensor.shape)}."
        )
    if tensor.device != like.device:
        raise ValueError(f"`{name}` must be on {like.device} like `{like_name}`, but is on {tensor.device}.")


def check_lengths(name: str, lengths: Tensor, seqs_name: str, seqs: Tensor, *, validate: bool) -> None:
    """
    Integer lengths [B] for `seqs` [B, T, ...].

    That each is between 0 and T is checked on a CPU always; elsewhere it takes a host sync and is done on request.
    """
    check_like(name, lengths, (seqs.shape[0],), seqs_name, seqs)
    if lengths.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"`{name}` must be int64 or int32, but is {str(lengths.dtype).removeprefix('torch.')}.")
    if torch.compiler.is_compiling():
        return
    if validate or lengths.device.type == "cpu":
        wrong = ((lengths < 0) | (lengths > seqs.shape[1])).nonzero()
        if wrong.numel() > 0:
            row = int(wrong[0])
            raise ValueError(
                f"`{name}` must be between 0 and {seqs.shape[1]} (the frames of `{seqs_name}`), "
                f"but is {int(lengths[row])} in row {row}."
            )


def check_cap(name: str, cap: int | None) -> None:
    """A static limit of the output length."""
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise ValueError(f"`{name}` must be an int of at least 1 or None, but is {cap!r}.")


def longest(lengths: Tensor, frames: int) -> int:
    """The largest of lengths [B], read from the device; under `torch.export` a size of its own, from 1 to `frames`."""
    if not is_exporting():
        return int(lengths.max())
    size: Any = lengths.max().item()
    torch._check(size >= 1)
    torch._check(size <= frames)
    return size


def valid_frames(lengths: Tensor, frames: int) -> Tensor:
    """Mask [B, T]: True where a frame is not padding."""
    return torch.arange(frames, device=lengths.device) < lengths.unsqueeze(1)


def accumulable(tensor: Tensor) -> Tensor:
    """float32 for the half precisions: sums of many numbers need it."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
