#!/usr/bin/env bash
# PyTorch 2.9.1: inside `torch.compile`, `torch.compiler.is_exporting()` is True, though its documentation says that it
# is so under `torch.export` alone. A module that takes another way for exported graphs (one without loops, say, which
# needs more memory) takes it in compiled training, too, and nothing tells: results agree but for rounding.
# `torch.compiler.is_dynamo_compiling()` tells the two apart: it is False under `torch.export` (not strict, the default).
#
# Installs torch into a temporary folder (several GB), and fails if that changes. In 2.13.0 the first line is False.
# Seen with Python 3.11 on Linux:
#   compiled: is_exporting True, is_dynamo_compiling True
#   exported: is_exporting True, is_dynamo_compiling False
#   eager: is_exporting False, is_dynamo_compiling False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" torch==2.9.1 numpy
PYTHONPATH="$folder" python3 - <<'PYTHON'
import torch


class Told(torch.nn.Module):
    """Gives what it is told, as numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        told = 10 * torch.compiler.is_exporting() + torch.compiler.is_dynamo_compiling()
        return 0 * x + told


x, module = torch.zeros(1), Told()
found = {
    "compiled": torch.compile(module, backend="eager", fullgraph=True)(x),
    "exported": torch.export.export(module, (x,)).module()(x),
    "eager": module(x),
}
found = {name: divmod(int(value), 10) for name, value in found.items()}
for name, (exporting, dynamo) in found.items():
    print(f"{name}: is_exporting {bool(exporting)}, is_dynamo_compiling {bool(dynamo)}")
assert found == {"compiled": (1, 1), "exported": (1, 0), "eager": (0, 0)}, f"it has changed: {found}"
PYTHON
