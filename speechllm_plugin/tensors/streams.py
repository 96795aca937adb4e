"""Runs work for the next step while the device still works on the last one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

ResultT = TypeVar("ResultT", Tensor, tuple[Tensor, Tensor])


def ahead(work: Callable[[], ResultT], device: torch.device) -> ResultT:
    """Runs work on a CUDA stream of its own, for which the current stream then waits; on other devices, at once.

    :param work: may only read tensors that were on the device before the first call, or that this function made.
    """
    if device.type != "cuda":
        return work()
    current, side = torch.cuda.current_stream(device), _side_stream(device)
    with torch.cuda.stream(side):
        results = work()
    current.wait_stream(side)
    for result in [results] if isinstance(results, Tensor) else results:
        if result.is_cuda:
            # The memory belongs to the side stream, which must not reuse it before it is read.
            result.record_stream(current)
    return results


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # for the weights
    return stream
