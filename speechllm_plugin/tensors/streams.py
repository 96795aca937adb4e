"""Work for the next step beside what the device still has to do for the last one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

ResultT = TypeVar("ResultT", Tensor, tuple[Tensor, Tensor])


def ahead(work: Callable[[], ResultT], device: torch.device) -> ResultT:
    """Does some work on a CUDA stream of its own, for which the current one then waits; elsewhere in its turn.

    :param work: reads what was on the device before the first call, or came there by this function.
    """
    if device.type != "cuda":
        return work()
    current, side = torch.cuda.current_stream(device), _side_stream(device)
    with torch.cuda.stream(side):
        results = work()
    current.wait_stream(side)
    for result in [results] if isinstance(results, Tensor) else results:
        if result.is_cuda:
            # Its memory is the side stream's, which may not take it back before it is read.
            result.record_stream(current)
    return results


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # for the weights
    return stream
