"""The benchmark of CIF beside torch_cif, as in training: alpha scaled to U tokens a row, gradients of h and alpha."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from speechllm_kernels.cif import cif

from speechllm_tools.bench.framework import (
    Benchmark,
    Case,
    Implementation,
    Inputs,
    Operation,
    Outputs,
    needs_package,
    only_on,
)

VARIANTS = {
    "full": "every row has T frames and U tokens",
    "ragged": "rows of T/2 to T frames, and as many fewer tokens",
    "silence": "as full, but three quarters of the first row weigh next to nothing: one long token",
    "inference": "no targets: alpha sums to about U, the tail rule applies",
}


def make_inputs(case: Case) -> dict[str, Any]:
    batch, frames, width, slots = case.shape
    generator = torch.Generator().manual_seed(case.seed)
    h = torch.randn(batch, frames, width, generator=generator).to(case.device, case.dtype)
    alpha = torch.rand(batch, frames, generator=generator)
    lengths = torch.full((batch,), frames)
    targets: torch.Tensor | None = torch.full((batch,), slots)
    if case.variant == "ragged":
        lengths = torch.randint(-(-frames // 2), frames + 1, (batch,), generator=generator)
        lengths[0] = frames
        targets = (slots * lengths / frames).ceil().long()
    elif case.variant == "silence":
        alpha[0, frames // 8 : frames // 8 + 3 * frames // 4] *= 1e-5
    elif case.variant == "inference":
        alpha *= 2 * slots / frames
        targets = None
        slots = int((2 * alpha.sum(1)).max()) // 2 + 1
    return {
        "h": h,
        "alpha": alpha.to(case.device, case.dtype),
        "lengths": lengths.to(case.device),
        "target_lengths": None if targets is None else targets.to(case.device),
        "slots": slots,
    }


def ours(backend: Any) -> Any:
    def run(inputs: Inputs) -> Outputs:
        output = cif(
            inputs["h"],
            inputs["alpha"],
            inputs["lengths"],
            target_lengths=inputs["target_lengths"],
            max_output_length=inputs["slots"],
            backend=backend,
        )
        return {
            "seqs": output.seqs,
            "lengths": output.lengths,
            "alpha_sum": output.alpha_sum,
            "fire_frames": output.fire_frames,
        }

    return run


def torch_cif(inputs: Inputs) -> Outputs:
    from torch_cif import cif_function

    h = inputs["h"]
    padding = torch.arange(h.shape[1], device=h.device) >= inputs["lengths"][:, None]
    output = cif_function(
        h, inputs["alpha"], padding_mask=padding, target_lengths=inputs["target_lengths"], unbound_alpha=True
    )
    return {"seqs": output["cif_out"][0]}


def floor_bytes(inputs: Inputs) -> tuple[int, int]:
    """Each pass reads the valid frames once; tokens, and the gradient of every frame, are written or read once."""
    h = inputs["h"]
    vector = h.shape[2] * h.element_size()
    frames, valid = h.shape[0] * h.shape[1], int(inputs["lengths"].sum())
    tokens = h.shape[0] * inputs["slots"]
    return (valid + tokens) * vector, (valid + frames + tokens) * vector


def kernel_floor_bytes(inputs: Inputs) -> dict[str, int]:
    forward, backward = floor_bytes(inputs)
    return {"gather_kernel": forward, "grad_frames_kernel": backward}


def cases(device: str) -> Sequence[Case]:
    if device == "cpu":
        return [
            Case(shape=(16, 1500, 768, 375), dtype=torch.float32, device=device),
            Case(shape=(16, 1500, 768, 375), dtype=torch.float32, device=device, variant="ragged"),
            Case(shape=(1, 30000, 1280, 2500), dtype=torch.float32, device=device),
            Case(shape=(64, 500, 512, 125), dtype=torch.float32, device=device),
        ]
    bf16, fp32 = torch.bfloat16, torch.float32
    headline = (32, 1500, 1280)
    return [
        Case(shape=(*headline, 375), dtype=bf16, device=device),
        Case(shape=(*headline, 125), dtype=bf16, device=device),
        Case(shape=(*headline, 750), dtype=bf16, device=device),
        Case(shape=(*headline, 375), dtype=bf16, device=device, variant="ragged"),
        Case(shape=(*headline, 375), dtype=bf16, device=device, variant="silence"),
        Case(shape=(16, 1500, 768, 375), dtype=fp32, device=device),
        Case(shape=(8, 6000, 1024, 1500), dtype=bf16, device=device),
        Case(shape=(1, 30000, 1280, 2500), dtype=bf16, device=device),
        Case(shape=(64, 500, 512, 125), dtype=bf16, device=device),
    ]


def gate_cases(device: str) -> Sequence[Case]:
    shapes = [
        (1, 1, 1, 1),  # the smallest
        (3, 7, 17, 3),  # channels that no load width divides
        (2, 40, 33, 90),  # several tokens per frame
        (2, 100, 1280, 1),  # one token per row
        (64, 50, 8, 12),  # many rows
        (2, 2048, 40, 512),  # exactly one chunk of the scan
        (2, 2049, 40, 512),  # one frame more
        (1, 30000, 4, 2500),  # long
    ]
    return [
        Case(shape=shape, dtype=dtype, device=device, variant=variant)
        for shape in shapes
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
        for variant in VARIANTS
    ]


peer = needs_package("torch_cif", "torch-cif")

CIF = Operation(
    name="cif",
    make_inputs=make_inputs,
    reference=ours("reference"),
    implementations=[
        Implementation(name="triton", run=ours("triton"), absent=only_on("cuda")),
        Implementation(name="torch", run=ours("torch")),
        Implementation(name="torch_cif", run=torch_cif, baseline=True, absent=peer),
        Implementation(name="torch_cif-compiled", run=torch_cif, baseline=True, absent=peer, compiled=True),
        Implementation(name="reference", run=ours("reference"), baseline=True),
        Implementation(name="reference-compiled", run=ours("reference"), baseline=True, compiled=True),
    ],
    floor_bytes=floor_bytes,
    kernel_floor_bytes=kernel_floor_bytes,
    differentiate=("h", "alpha"),
)

BENCHMARK = Benchmark(
    dimensions=("B", "T", "C", "U"),
    last_dimension=lambda shape: max(shape[1] // 4, 1),
    variants=VARIANTS,
    cases=cases,
    gate_cases=gate_cases,
    operations=[CIF],
)
