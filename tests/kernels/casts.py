"""Kernels that do nothing but read and write, in the module that a test loads once Triton is there."""

# Triton gives a kernel's arguments their types.
# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl
from speechllm_kernels._triton_numbers import narrow, widen


@triton.jit
def widen_kernel(source, target, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + at, widen(tl.load(source + at)))


@triton.jit
def narrow_kernel(source, target, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + at, narrow(tl.load(source + at), target))
