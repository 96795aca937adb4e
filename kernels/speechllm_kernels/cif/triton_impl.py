"""CIF in Triton: a scan, a gather, and two kernels backward. No atomics, no host sync, the same bits every time."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from speechllm_kernels.cif import triton_backward, triton_gather, triton_scan

P = ParamSpec("P")
R = TypeVar("R")


def _on_its_device(launch: Callable[P, R]) -> Callable[P, R]:
    """Triton launches on the current device, which need not be the tensors'."""

    @wraps(launch)
    def launched(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0]
        assert isinstance(first, Tensor)
        with torch.cuda.device_of(first):
            return launch(*args, **kwargs)

    return launched


plan = _on_its_device(triton_scan.plan)
forward = _on_its_device(triton_gather.forward)
backward = _on_its_device(triton_backward.backward)
