"""Every Triton kernel compiles ahead of time for sm_80 and sm_90, keeps to the registers, and loads 16 bytes at once.

In a process of its own: this one may have chosen Triton's interpreter, and kernels compile only without it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

DTYPES = ["fp32", "bf16", "fp16"]


def describe(dtype: str) -> list[tuple[Any, dict[str, str], dict[str, Any], int, int]]:
    """Kernel, types of its pointers, constants, warps, and how many loads of 16 bytes it needs at least."""
    from speechllm_kernels.cif import plan, triton_backward, triton_gather, triton_scan

    data = f"*{dtype}"
    rows = {"lengths": "*i64", "given_lengths": "*i64", "overflow": "*i64", "cum": "*fp64", "tail_scales": "*fp64"}
    scan = {"alpha": data, "sums": "*fp64", "targets": "*i64", "fire_frames": "*i64", "alpha_sum": "*fp32"}
    scan |= {"scales": "*fp64", **rows}
    strides = {"stride_frame": 1, "stride_length": 1}
    planned = {
        "BETA": 0.9,
        "SCALE_EPS": 0.0,
        "THRESHOLD": 0.5,
        "STRICT": False,
        "RENORM": True,
        "SNAP": plan.SNAP,
        "BELOW": plan.BELOW,
        "LARGEST": plan.LARGEST_ALPHA,
        "LARGEST_POSITION": plan.LARGEST_POSITION,
        "CHUNK": triton_scan.CHUNK,
        "stride_target": 1,
        **strides,
    }
    sums = {"LARGEST": plan.LARGEST_ALPHA, "CHUNK": triton_scan.CHUNK, **strides}
    block = 32 * 16 // (4 if dtype == "fp32" else 2)
    gather = {"h": data, "out": data, "fire_frames": "*i64", **rows}
    gathered = {"BETA": 1.0, "FRAMES": triton_gather.FRAMES, "BLOCK": block, "stride_channel": 1}
    frames = {"grad": data, "h": data, "grad_h": data, "products": "*fp32", **rows}
    framed = {"BETA": 1.0, "FRAMES": triton_backward.FRAMES, "BLOCK": block, "NEED_H": True, "NEED_ALPHA": True}
    framed |= {"stride_channel": 1, "grad_stride_channel": 1, "stride_length": 1}
    weights = {"products": "*fp32", "scales": "*fp64", "sums": "*fp64", "grad_alpha": data, **rows}
    weighted = {"TAIL": True, "CHUNK": triton_backward.CHUNK, "stride_length": 1}
    every_frame = triton_backward.FRAMES * 3  # h and the gradients of two tokens
    kernels: list[tuple[Any, dict[str, str], dict[str, Any], int, int]] = [
        (triton_gather.gather_kernel, gather, gathered, triton_gather.WARPS, triton_gather.FRAMES),
        (triton_backward.grad_frames_kernel, frames, framed, triton_backward.WARPS, every_frame),
        (triton_scan.plan_kernel, scan, {"SCALED": True, "CHUNKS_ABOVE": 1, **planned}, triton_scan.WARPS, 0),
    ]
    if dtype == "bf16":
        # What differs between dtypes is one load or store of [B, T]: one dtype stands for the others.
        kernels += [
            (triton_scan.plan_kernel, scan, {"SCALED": False, "CHUNKS_ABOVE": 16, **planned}, triton_scan.WARPS, 0),
            (triton_scan.chunk_sums_kernel, scan, sums, triton_scan.WARPS, 0),
        ]
        kernels += [
            (
                triton_backward.grad_alpha_kernel,
                weights,
                {"TOTALS": totals, "SCALED": not totals, "CHUNKS_ABOVE": chunks, **weighted},
                triton_backward.CHUNK_WARPS,
                0,
            )
            for totals, chunks in ((False, 1), (True, 16), (False, 16))
        ]
    return kernels


def compile_all() -> None:
    """Prints for each kernel, dtype and architecture its registers, bytes of stack and local memory, wide loads."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    for dtype in DTYPES:
        for kernel, pointers, constants, warps, needed in describe(dtype):
            types = {argument: pointers.get(argument, "i32") for argument in kernel.arg_names}
            types |= dict.fromkeys(constants, "constexpr")
            places = {argument: (index,) for index, argument in enumerate(kernel.arg_names)}
            # Sizes and strides that 16 divides, as real ones are.
            aligned = {places[argument]: [["tt.divisibility", 16]] for argument in types if argument not in constants}
            values = {places[argument]: value for argument, value in constants.items()}
            for architecture in (80, 90):
                source = ASTSource(kernel, types, values, aligned)
                target = GPUTarget("cuda", architecture, 32)
                compiled = triton.compile(source, target=target, options={"num_warps": warps})
                binary = Path("kernel.cubin")
                binary.write_bytes(compiled.asm["cubin"])
                usage = subprocess.run([cuobjdump, "-res-usage", binary], capture_output=True, text=True).stdout
                found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
                loads = len(re.findall(r"ld\.global\S*\.v4\.b32", compiled.asm["ptx"]))
                name = f"{kernel.__name__} {dtype} sm_{architecture}"
                print(json.dumps({"kernel": name, **found, "needed": needed, "loads": loads}))


def test_compiles_without_spills_and_with_wide_loads(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": ":".join(sys.path), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    code = f"import runpy; runpy.run_path({str(Path(__file__))!r})['compile_all']()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kernels) == 2 * (3 * 3 + 5)
    for kernel in kernels:
        assert kernel["STACK"] == kernel["LOCAL"] == 0, kernel
        assert kernel["REG"] > 0, kernel
        assert kernel["loads"] >= kernel["needed"], kernel
