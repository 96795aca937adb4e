"""Rows that CIF must take, each with its reason, and what its tests compare with them."""

from __future__ import annotations

import math
from typing import Any

import torch
from speechllm_kernels.cif import CifOutput, cif
from torch import Tensor

from tests.kernels.backends import DEVICE
from tests.kernels.rounding import assert_rounded_once

TOLERANCES = {torch.float64: 1e-12, torch.float32: 3e-6}


def draw(*lengths: int, largest: float = 1.0, seed: int = 0) -> list[list[float]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(length, generator=generator) * largest).tolist() for length in lengths]


# reason -> (rows of alpha, channels, targets of training)
CASES: dict[str, tuple[list[list[float]], int, list[int]]] = {
    "one frame": ([[0.7]], 1, [1]),
    "one frame, several tokens": ([[3.6]], 3, [4]),
    "a row of length 0": ([*draw(9), []], 17, [3, 2]),
    "alpha all 0": ([[0.0] * 6, *draw(6)], 4, [3, 2]),
    "thresholds hit exactly": ([[0.5, 0.5, 0.25, 0.75, 1.0, 2.0, 0.5]], 4, [6]),
    "a sum that is an integer only up to rounding": ([[0.1] * 30], 4, [3]),
    "silence after the last token": ([[0.6, 0.9, 0.5, 0.0, 0.0, 0.0]], 4, [2]),
    "silence before the first token": ([[0.0, 0.0, 0.0, 0.6, 0.9]], 4, [1]),
    "several tokens in one frame": (draw(8, 5, largest=6.0), 5, [31, 12]),
    "a target of 0": (draw(7, 5), 3, [0, 2]),
    "one token over many frames": (draw(40, largest=0.02), 3, [1]),
    "channels over two blocks": (draw(12, 9), 300, [4, 3]),
    "ragged": (draw(23, 17, 3, 11), 17, [6, 9, 1, 2]),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "beta": {"beta": 0.7},
    "no tail": {"tail": "drop"},
    "low threshold, strict": {"tail_threshold": 0.1, "tail_strict": True},
    "tail rescaled": {"tail_rescale": "renorm", "tail_threshold": 0.05, "beta": 1.3},
    "tail rescaled, factor detached": {"tail_rescale": "renorm_detach", "tail_threshold": 0.05},
    "rounded length": {"length_mode": "round"},
    "eps": {"scale_eps": 1e-2},
}


def make_inputs(case: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h, alpha, lengths and targets; the padding, at least one frame, is NaN."""
    rows, channels, targets = CASES[case]
    frames = max(map(len, rows)) + 1
    h = torch.full((len(rows), frames, channels), math.nan)
    alpha = torch.full((len(rows), frames), math.nan)
    generator = torch.Generator().manual_seed(len(case))
    for row, values in enumerate(rows):
        h[row, : len(values)] = torch.randn(len(values), channels, generator=generator)
        alpha[row, : len(values)] = torch.tensor(values)
    lengths = torch.tensor([len(values) for values in rows])
    return h.to(DEVICE, dtype), alpha.to(DEVICE, dtype), lengths.to(DEVICE), torch.tensor(targets).to(DEVICE)


def run(
    h: Tensor, alpha: Tensor, *arguments: Any, wide: bool = False, cotangent: Tensor | None = None, **options: Any
) -> tuple[CifOutput, dict[str, Tensor]]:
    """The output and the gradients of a function of `seqs`, random by default, and `alpha_sum`; `wide` computes in
    float64."""
    dtype = h.dtype
    if wide:
        h, alpha = h.double(), alpha.double()
    h, alpha = h.detach().requires_grad_(), alpha.detach().requires_grad_()
    output = cif(h, alpha, *arguments, **options)
    if cotangent is None:
        generator = torch.Generator().manual_seed(1)
        cotangent = torch.randn(output.seqs.shape, generator=generator).to(DEVICE, dtype)
    loss = (output.seqs * cotangent.to(h.dtype)).sum() + output.alpha_sum.sum() / 8
    grad_h, grad_alpha = torch.autograd.grad(loss, (h, alpha))
    return output, {"dh": grad_h, "dalpha": grad_alpha}


def assert_close(name: str, value: Tensor, expected: Tensor, tolerance: float) -> None:
    assert value.shape == expected.shape, name
    value, expected = value.detach().double(), expected.detach().double()
    error = (value - expected).norm() / expected.norm().clamp(min=1e-3)
    assert error <= tolerance, f"{name} is off by {error:.1e}"


def assert_agrees(found: tuple[CifOutput, dict[str, Tensor]], expected: tuple[CifOutput, dict[str, Tensor]]) -> None:
    output, gradients = found
    for name in ("lengths", "fire_frames", "overflow"):
        assert torch.equal(getattr(output, name), getattr(expected[0], name)), name
    assert_close("alpha_sum", output.alpha_sum, expected[0].alpha_sum, 3e-6)
    for name, value in {"seqs": output.seqs, **gradients}.items():
        exact = expected[0].seqs if name == "seqs" else expected[1][name]
        if value.dtype in TOLERANCES:
            assert_close(name, value, exact, TOLERANCES[value.dtype])
        else:
            assert_rounded_once(name, value, exact)
