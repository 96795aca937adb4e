#!/usr/bin/env bash
# Triton 3.5.1: a float64 is compared with a Python float, or a constexpr, as if that were float32, while sums and
# products with the same float are float64. tl.minimum and tl.maximum do as comparisons do. Triton 3.9.0 takes the float
# as float64 in all of them. So `v >= X` and `v - X >= 0` differ in 3.5.1 for v = X = 2/3, and `v >= X` between versions.
#
# Seen (python 3.11.7, no GPU needed: the intermediate code holds the constants):
#   3.5.1 compare 0.66666668653488159 subtract 0.66666666666666663 minimum 0.66666668653488159
#   3.9.0 compare 0.66666666666666663 subtract 0.66666666666666663 minimum 0.66666666666666663
# Exact in both: tl.full([], X, tl.float64) in place of X. An argument that is no constexpr is float32 in both.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/kernels.py" <<'PYTHON'
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def compare(x, y, X: tl.constexpr):
    tl.store(y, (tl.load(x) >= X).to(tl.float64))


@triton.jit
def subtract(x, y, X: tl.constexpr):
    tl.store(y, tl.load(x) - X)


@triton.jit
def minimum(x, y, X: tl.constexpr):
    tl.store(y, tl.minimum(tl.load(x), X))


found = [triton.__version__]
for kernel in (compare, subtract, minimum):
    source = ASTSource(kernel, {"x": "*fp64", "y": "*fp64", "X": "constexpr"}, {(2,): 2 / 3})
    code = triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ttir"]
    (constant,) = re.findall(r"arith.constant (0\.6\d+) : f64", code) or re.findall(r"constant ([\d.E+-]+) : f64", code)
    found += [kernel.__name__, constant]
print(*found)
PYTHON

for version in 3.5.1 3.9.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "triton==$version" "numpy==2.3.5"
    TRITON_CACHE_DIR="$folder/cache" "$folder/$version/bin/python" -W ignore "$folder/kernels.py"
done | tee "$folder/found"

diff "$folder/found" - <<'SEEN'
3.5.1 compare 0.66666668653488159 subtract 0.66666666666666663 minimum 0.66666668653488159
3.9.0 compare 0.66666666666666663 subtract 0.66666666666666663 minimum 0.66666666666666663
SEEN
echo "as seen"
