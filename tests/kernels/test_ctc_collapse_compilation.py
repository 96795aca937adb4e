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


def describe(dtype: str) -> list[tuple[str, dict[str, str], dict[str, Any], int, bool]]:
    """Kernel, types of its pointers, constants, warps, and whether it must load 16 bytes at once."""
    data, item = f"*{dtype}", 4 if dtype == "fp32" else 2
    labels = {
        "logits": data,
        "lengths": "*i64",
        "labels": "*i64",
        "probability": "*fp32",
        "rest": "*fp32",
        "sums": "*fp32",
    }
    plan = {name: "*i64" for name in ("frame_labels", "lengths", "labels", "starts", "ends", "counts", "merged")}
    spans = {"scores": "*fp32", "slots": "*i32", "starts": "*i64", "ends": "*i64", "norms": "*fp32"}
    vector = 16 // item
    wide, warps = 256, 256 * item // 512
    tiles = {"LANES": 512, "VECTOR": vector, "TILES": 64, "stride_v": 1}
    return [
        ("ctc_label_frames_kernel", labels, {"PROBABILITIES": True, **tiles}, 4, True),
        ("ctc_label_frames_kernel", labels, {"PROBABILITIES": False, **tiles}, 4, True),
        (
            "ctc_label_frames_backward_kernel",
            {"grad": "*fp32", "result": data, **labels},
            {"BLOCK": 4096, "stride_v": 1},
            4,
            True,
        ),
        (
            "ctc_plan_kernel",
            {"slots": "*i32", **plan},
            {"KEEP_BLANK": False, "CAPPED": True, "WIDE": True, "BLOCK": 2048},
            8,
            False,
        ),
        (
            "ctc_pool_kernel",
            {"h": data, "seqs": data, **spans},
            {"SCORED": True, "HOLES": True, "BLOCK_C": wide, "UNROLL": 4, "stride_c": 1},
            warps,
            True,
        ),
        (
            "ctc_pool_backward_kernel",
            {"grad": data, "h": data, "dh": data, "products": "*fp32", **spans},
            {
                "SCORED": True,
                "FOR_H": True,
                "FOR_SCORES": True,
                "BLOCK_T": 4,
                "BLOCK_C": wide,
                "stride_gc": 1,
                "stride_c": 1,
            },
            warps,
            True,
        ),
        ("ctc_scores_backward_kernel", {"products": "*fp32", "dscores": "*fp32", **spans}, {"BLOCK": 32}, 1, False),
    ]


def compile_all() -> None:
    """Prints for each kernel, dtype and architecture its bytes of stack and local memory, and its widest loads."""
    import triton
    from speechllm_kernels.ctc_collapse import triton_impl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    for dtype in DTYPES:
        for name, pointers, constants, warps, wide in describe(dtype):
            kernel = getattr(triton_impl, name)
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
                print(
                    json.dumps({"kernel": f"{name} {dtype} sm_{architecture}", **found, "wide": wide, "loads": loads})
                )


def test_compiles_without_spills_and_with_wide_loads(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": ":".join(sys.path), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    code = f"import runpy; runpy.run_path({str(Path(__file__))!r})['compile_all']()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kernels) == 2 * sum(len(describe(dtype)) for dtype in DTYPES)
    for kernel in kernels:
        assert kernel["STACK"] == kernel["LOCAL"] == 0, kernel
        assert kernel["REG"] > 0, kernel
        if kernel["wide"]:
            assert kernel["loads"] > 0, kernel
