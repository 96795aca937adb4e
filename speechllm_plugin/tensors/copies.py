"""Copies numbers between the host and a device without waiting for the device.

Numbers that decide a shape (lengths, places, labels) stay on the host; masks and indices made from them are copied. A
copy from memory that is not pinned would wait for all work that the device has in its queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def on_host(numbers: Iterable[int]) -> Tensor:
    """An int64 tensor on the host, whichever the default device is."""
    return torch.tensor(list(numbers), dtype=torch.long, device="cpu")


def on_device(numbers: Tensor | Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """
    :param numbers: a tensor on the host, or an argument of `torch.tensor`; a tensor on the device is returned as it is.
    """
    if isinstance(numbers, Tensor) and numbers.device == device:
        return numbers
    values = numbers if isinstance(numbers, Tensor) else torch.tensor(numbers, dtype=dtype, device="cpu")
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


class Arriving:
    """A tensor on its way from a device to the host, which does not wait for it."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.detach().to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def get(self) -> Tensor:
        """The tensor on the host; waits until it has arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copy
