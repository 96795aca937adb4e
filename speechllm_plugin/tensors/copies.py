"""Numbers that the host knows, where a device needs them: no step waits for its device.

What decides a shape (lengths, places, labels) stays on the host; masks and indices made of it are copied. A copy from
memory that is not pinned would wait for all that the device has been given to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def on_host(numbers: Iterable[int]) -> Tensor:
    """int64, on the host whatever the default device is."""
    return torch.tensor(list(numbers), dtype=torch.long, device="cpu")


def on_device(numbers: Tensor | Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """
    :param numbers: a tensor on the host, or what `torch.tensor` takes. A tensor that is on the device stays as it is.
    """
    if isinstance(numbers, Tensor) and numbers.device == device:
        return numbers
    values = numbers if isinstance(numbers, Tensor) else torch.tensor(numbers, dtype=dtype, device="cpu")
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
