"""Every Triton kernel of CTC collapse compiles ahead of time, without spills, with wide loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.compilation import Kernel, check_kernels

pytest.importorskip("triton")


def describe(dtype: str) -> list[Kernel]:
    from speechllm_kernels.ctc_collapse import triton_labels, triton_plan, triton_pool, triton_pool_backward

    data, item = f"*{dtype}", 4 if dtype == "fp32" else 2
    labels = {"logits": data, "lengths": "*i64", "labels": "*i64", "probability": "*fp32"}
    labels |= {"rest": "*fp32", "sums": "*fp32"}
    tiles = {"LANES": triton_labels.LANES, "VECTOR": 16 // item, "TILES": 64, "stride_v": 1}
    labels_back = {"grad": "*fp32", "result": data, **labels}
    blocks = {"BLOCK": triton_labels.LARGEST_BLOCK, "stride_v": 1}
    plan = {name: "*i64" for name in ("frame_labels", "lengths", "labels", "starts", "ends", "counts", "merged")}
    plan |= {"slots": "*i32"}
    planned = {"KEEP_BLANK": False, "CAPPED": True, "WIDE": True, "BLOCK": triton_plan.LARGEST_BLOCK}
    spans = {"scores": "*fp32", "slots": "*i32", "starts": "*i64", "ends": "*i64", "norms": "*fp32"}
    block, warps = triton_pool.block_of_channels(256, item)
    pool = {"h": data, "seqs": data, **spans}
    pooled = {"SCORED": True, "HOLES": True, "BLOCK_C": block, "UNROLL": triton_pool.FRAMES, "stride_c": 1}
    frames = {"grad": data, "h": data, "dh": data, "products": "*fp32", **spans}
    framed = {"SCORED": True, "FOR_H": True, "FOR_SCORES": True, "BLOCK_T": triton_pool_backward.FRAMES}
    framed |= {"BLOCK_C": block, "stride_gc": 1, "stride_c": 1}
    scores = {"products": "*fp32", "dscores": "*fp32", **spans}
    scored = {"BLOCK": triton_pool_backward.SCORES}
    scores_warps = triton_pool_backward.SCORES_WARPS
    kernels = [
        *(
            Kernel(triton_labels.ctc_label_frames_kernel, labels, {"PROBABILITIES": p, **tiles}, triton_labels.WARPS, 1)
            for p in (True, False)
        ),
        Kernel(triton_labels.ctc_label_frames_backward_kernel, labels_back, blocks, triton_labels.WARPS, 1),
        Kernel(triton_pool.ctc_pool_kernel, pool, pooled, warps, 1),
        Kernel(triton_pool_backward.ctc_pool_backward_kernel, frames, framed, warps, 1),
    ]
    if dtype == "bf16":
        # Labels and scores have one type whatever the frames have.
        kernels += [
            Kernel(triton_plan.ctc_plan_kernel, plan, planned, triton_plan.WARPS, 0),
            Kernel(triton_pool_backward.ctc_scores_backward_kernel, scores, scored, scores_warps, 0),
        ]
    return kernels


def test_compiles_without_spills_and_with_wide_loads(tmp_path: Path) -> None:
    check_kernels(__file__, tmp_path, count=5 * 8 + 2 * 4)
