"""The kernels need torch and triton only: no other package of the project's is loaded with them."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("kernel", ["cif", "ctc_collapse"])
def test_imports_torch_and_triton_only(kernel: str) -> None:
    code = (
        f"import sys, speechllm_kernels.{kernel}, speechllm_kernels.{kernel}.triton_impl\n"
        "print(sorted({'fairseq2', 'transformers', 'torch_cif', 'numba', 'scipy'} & set(sys.modules)))\n"
    )
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
