#!/usr/bin/env bash
# Triton 3.9.0's interpreter (TRITON_INTERPRET=1, and 3.5.1's): a cast from float32 to bfloat16 cuts off where a GPU and
# PyTorch round to nearest, fp_downcast_rounding="rtne" changes nothing, a product of bfloat16 is that of its bits, and
# bfloat16 below the smallest normal number changes when it is read as float32. A kernel that is right fails its tests,
# or its tests are so wide that faults pass.
#
# Seen (python 3.11.7, torch 2.13.0, numpy 2.4.6):
#   cast 1.999 -> 1.9921875, torch 2.0
#   cast 1.999, rtne -> 1.9921875, torch 2.0
#   1.5 * 1.5 -> 2.524354896707238e-29, torch 2.25
#   2**-130 as float32 -> 0.0, torch 7.346839692639297e-40
# Right in the interpreter, too: read by x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16, compute in float32, and round
# the bits before the store.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/kernels.py" <<'PYTHON'
import torch
import triton
import triton.language as tl


@triton.jit
def cast(x, y):
    tl.store(y, tl.load(x).to(tl.bfloat16))


@triton.jit
def cast_to_nearest(x, y):
    tl.store(y, tl.load(x).to(tl.bfloat16, fp_downcast_rounding="rtne"))


@triton.jit
def square(x, y):
    tl.store(y, tl.load(x) * tl.load(x))


@triton.jit
def read(x, y):
    tl.store(y, tl.load(x).to(tl.float32))


def show(name, kernel, x, expected):
    y = torch.zeros_like(expected)
    kernel[(1,)](x, y)
    print(f"{name} -> {y.item()}, torch {expected.item()}")


single = torch.tensor([1.999])
show("cast 1.999", cast, single, single.bfloat16())
show("cast 1.999, rtne", cast_to_nearest, single, single.bfloat16())
half = torch.tensor([1.5], dtype=torch.bfloat16)
show("1.5 * 1.5", square, half, half * half)
small = torch.tensor([2.0**-130], dtype=torch.bfloat16)
show("2**-130 as float32", read, small, small.float())
PYTHON

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 triton==3.9.0 numpy==2.4.6
TRITON_INTERPRET=1 "$folder/venv/bin/python" -W ignore "$folder/kernels.py" | tee "$folder/found"

diff "$folder/found" - <<'SEEN'
cast 1.999 -> 1.9921875, torch 2.0
cast 1.999, rtne -> 1.9921875, torch 2.0
1.5 * 1.5 -> 2.524354896707238e-29, torch 2.25
2**-130 as float32 -> 0.0, torch 7.346839692639297e-40
SEEN
echo "as seen"
