#!/usr/bin/env bash
# PyTorch 2.9.1: a frozen linear layer over a slice of states takes another way than over the same numbers in one piece.
# `head(states[:, -1:])` for 8 rows, as transformers writes it for the last place of each row, is no matrix product but
# a batched one, with the weights expanded to 8 copies; on a CPU in bfloat16 the copies are really made. 49152 x 576
# weights: 2.8 s in place of 14 ms. With weights that require a gradient, or one row, or `.contiguous()`, it is one
# product. So who freezes an LLM makes its decoding slower.
#
# Installs torch into a temporary folder (several GB), looks at which operators run, and fails if that changes. Times
# are printed, not compared.
# Seen with Python 3.11 on Linux:
#   frozen, a slice: aten::bmm, 8 copies of the weights (28.3 MB each) made
#   frozen, in one piece: aten::mm, no copy
#   trained, a slice: aten::mm, no copy
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" torch==2.9.1 numpy
PYTHONPATH="$folder" python3 - <<'PYTHON'
import time

import torch
from torch.profiler import ProfilerActivity, profile

head = torch.nn.Linear(576, 24576, bias=False, dtype=torch.bfloat16)
states = torch.randn(8, 40, 576, dtype=torch.bfloat16)
size = head.weight.numel() * head.weight.element_size()
found = {}
for trained in (False, True):
    head.requires_grad_(trained)
    for name, inputs in (("a slice", states[:, -1:]), ("in one piece", states[:, -1:].contiguous())):
        head(inputs)
        start = time.perf_counter()
        head(inputs)
        seconds = time.perf_counter() - start
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            head(inputs)
        events = seen.key_averages()
        product = next(event.key for event in events if event.key in ("aten::mm", "aten::bmm"))
        copied = any(event.self_cpu_memory_usage >= 8 * size for event in events)
        key = f"{'trained' if trained else 'frozen'}, {name}"
        found[key] = (product, copied)
        made = f"8 copies of the weights ({size / 1e6:.1f} MB each) made" if copied else "no copy"
        print(f"{key}: {product}, {made} ({1000 * seconds:.0f} ms)")
assert found == {
    "frozen, a slice": ("aten::bmm", True), "frozen, in one piece": ("aten::mm", False),
    "trained, a slice": ("aten::mm", False), "trained, in one piece": ("aten::mm", False),
}, "the behaviour has changed"
print("as found: a slice by frozen weights is no matrix product")
PYTHON
