"""CIF in Triton: a scan, a gather, and two kernels backward. No atomics, no host sync, the same bits every time."""

from __future__ import annotations

from speechllm_kernels.cif.triton_backward import backward
from speechllm_kernels.cif.triton_gather import forward
from speechllm_kernels.cif.triton_scan import plan

__all__ = ["backward", "forward", "plan"]
