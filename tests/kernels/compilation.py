"""Compiles Triton's kernels ahead of time, without a GPU: for Ampere, Hopper and both kinds of Blackwell.

In a process of its own: the one of the tests may have chosen Triton's interpreter, and kernels compile only without it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.waiting import LONGEST

# One dtype stands for the others on Blackwell.
ARCHITECTURES = {"fp32": [80, 90], "fp16": [80, 90], "bf16": [80, 90, 100, 120]}


class Kernel(NamedTuple):
    """One way to compile a kernel."""

    function: Any
    pointers: dict[str, str]
    """Types of the arguments that are pointers, such as `*fp32`; arguments that are neither here nor constants are
    i32."""
    constants: dict[str, Any]
    warps: int
    wide_loads: int
    """How many loads of 16 bytes it needs at least."""


Describe = Callable[[str], list[Kernel]]


def compile_all(describe: Describe) -> None:
    """Prints for each dtype's kernels and each architecture registers, bytes of stack and local memory, wide loads."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    for dtype, architectures in ARCHITECTURES.items():
        for kernel, pointers, constants, warps, wide_loads in describe(dtype):
            types = {argument: pointers.get(argument, "i32") for argument in kernel.arg_names}
            types |= dict.fromkeys(constants, "constexpr")
            places = {argument: (index,) for index, argument in enumerate(kernel.arg_names)}
            # Sizes and strides that 16 divides, as real ones are.
            aligned = {places[argument]: [["tt.divisibility", 16]] for argument in types if argument not in constants}
            values = {places[argument]: value for argument, value in constants.items()}
            for architecture in architectures:
                source = ASTSource(kernel, types, values, aligned)
                target = GPUTarget("cuda", architecture, 32)
                compiled = triton.compile(source, target=target, options={"num_warps": warps})
                binary = Path("kernel.cubin")
                binary.write_bytes(compiled.asm["cubin"])
                told = subprocess.run([cuobjdump, "-res-usage", binary], capture_output=True, text=True, timeout=60)
                found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", told.stdout)}
                loads = len(re.findall(r"ld\.global\S*\.v4\.b32", compiled.asm["ptx"]))
                name = f"{kernel.__name__} {dtype} sm_{architecture}"
                print(json.dumps({"kernel": name, **found, "needed": wide_loads, "loads": loads}))


def check_kernels(test: str, folder: Path, *, count: int) -> None:
    """
    Asserts that kernels keep to the registers and load 16 bytes at once.

    :param test: the file whose `describe` lists the kernels of a dtype.
    :param folder: for what compilation writes.
    :param count: how many kernels there are over all dtypes and architectures.
    """
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": ":".join(sys.path), "TRITON_CACHE_DIR": str(folder / "cache")}
    code = (
        "import runpy\n"
        "from tests.kernels.compilation import compile_all\n"
        f"compile_all(runpy.run_path({test!r})['describe'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True,
                          timeout=LONGEST)  # fmt: skip
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kernels) == count
    for kernel in kernels:
        # Triton 3.5.1's assembler for Blackwell reserves 8 bytes that nothing uses.
        blackwell = kernel["kernel"].endswith(("sm_100", "sm_120"))
        assert kernel["LOCAL"] == 0 and kernel["STACK"] <= (8 if blackwell else 0), kernel
        assert kernel["REG"] > 0, kernel
        assert kernel["loads"] >= kernel["needed"], kernel
