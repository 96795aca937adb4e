"""Every Triton kernel of CIF compiles ahead of time, without spills, with wide loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.compilation import Kernel, check_kernels

pytest.importorskip("triton")


def describe(dtype: str) -> list[Kernel]:
    from speechllm_kernels.cif import token_plan, triton_backward, triton_gather, triton_scan

    data = f"*{dtype}"
    rows = {"lengths": "*i64", "given_lengths": "*i64", "overflow": "*i64", "cum": "*fp64", "tail_scales": "*fp64"}
    scan = {"alpha": "*fp32", "sums": "*fp64", "targets": "*i64", "fire_frames": "*i64", "alpha_sum": "*fp32"}
    scan |= {"scales": "*fp64", **rows}
    strides = {"stride_frame": 1, "stride_length": 1}
    planned = {
        "BETA": 0.9,
        "SCALE_EPS": 0.0,
        "THRESHOLD": 0.5,
        "STRICT": False,
        "RENORM": True,
        "SNAP": token_plan.SNAP,
        "BELOW": token_plan.BELOW,
        "LARGEST": token_plan.LARGEST_ALPHA,
        "LARGEST_POSITION": token_plan.LARGEST_POSITION,
        "CHUNK": triton_scan.CHUNK,
        "stride_target": 1,
        **strides,
    }
    sums = {"LARGEST": token_plan.LARGEST_ALPHA, "CHUNK": triton_scan.CHUNK, **strides}
    block = 32 * 16 // (4 if dtype == "fp32" else 2)
    gather = {"h": data, "out": data, "fire_frames": "*i64", **rows}
    gathered = {"BETA": 1.0, "FRAMES": triton_gather.FRAMES, "BLOCK": block, "stride_channel": 1}
    frames = {"grad": data, "h": data, "grad_h": data, "products": "*fp32", **rows}
    framed = {"BETA": 1.0, "FRAMES": triton_backward.FRAMES, "BLOCK": block, "NEED_H": True, "NEED_ALPHA": True}
    framed |= {"stride_channel": 1, "grad_stride_channel": 1, "stride_length": 1}
    weights = {"products": "*fp32", "scales": "*fp64", "sums": "*fp64", "grad_alpha": "*fp32", **rows}
    weighted = {"TAIL": True, "CHUNK": triton_backward.CHUNK, "stride_length": 1}
    every_frame = triton_backward.FRAMES * 3  # h and the gradients of two tokens
    kernels = [
        Kernel(triton_gather.gather_kernel, gather, gathered, triton_gather.WARPS, triton_gather.FRAMES),
        Kernel(triton_backward.grad_frames_kernel, frames, framed, triton_backward.WARPS, every_frame),
    ]
    if dtype == "bf16":
        # The weights are float32 whatever the frames are.
        kernels += [
            Kernel(triton_scan.plan_kernel, scan, {"SCALED": True, "CHUNKS_ABOVE": 1, **planned}, triton_scan.WARPS, 0),
            Kernel(
                triton_scan.plan_kernel, scan, {"SCALED": False, "CHUNKS_ABOVE": 16, **planned}, triton_scan.WARPS, 0
            ),
            Kernel(triton_scan.chunk_sums_kernel, scan, sums, triton_scan.WARPS, 0),
        ]
        kernels += [
            Kernel(
                triton_backward.grad_alpha_kernel,
                weights,
                {"TOTALS": totals, "SCALED": not totals, "CHUNKS_ABOVE": chunks, **weighted},
                triton_backward.CHUNK_WARPS,
                0,
            )
            for totals, chunks in ((False, 1), (True, 16), (False, 16))
        ]
    return kernels


def test_compiles_without_spills_and_with_wide_loads(tmp_path: Path) -> None:
    check_kernels(__file__, tmp_path, count=2 * 8 + 6 * 4)
