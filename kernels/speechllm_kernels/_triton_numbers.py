"""How Triton kernels read, compare and write numbers, so that its interpreter, a GPU and PyTorch give the same bits.

- Half precision is read by `widen` and written by `narrow`, and nothing is computed in it: the interpreter adds and
  multiplies bfloat16 as if its bits were an integer, flushes its subnormals, and truncates float32 to it.
- A constant that meets float64 is a `double`: Triton 3.5 takes it as float32 in comparisons, minima and maxima.
- A mask compares a block with a number, and a condition on numbers enters by that number (`channel < limit`): the
  interpreter of Triton 3.9 refuses `block & condition`.
"""

# Triton gives a kernel's arguments their types.
# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def widen(x):
    """float32 of the same value."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def narrow(x, target):
    """float32 in the type that the pointer `target` points to, rounded to nearest, ties to even."""
    if target.dtype.element_ty == tl.bfloat16:
        # Ties to even: 0x7FFF is added, and 1 more where the last kept bit is odd. NaN is replaced by one that the sum
        # does not overflow.
        bits = tl.where(x == x, x, float("nan")).to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(target.dtype.element_ty)


@triton.jit
def double(X: tl.constexpr):
    return tl.full([], X, tl.float64)
