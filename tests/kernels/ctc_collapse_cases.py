"""Rows that CTC collapse must take, each with its reason, and what its tests compare with them."""

from __future__ import annotations

import math
from typing import Any

import torch
from speechllm_kernels.ctc_collapse import CtcCollapseOutput, ctc_collapse
from torch import Tensor

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = 3e-6  # of float32

# reason -> labels of the rows (None is padding), channels, vocabulary
CASES: dict[str, tuple[list[list[int | None]], int, int]] = {
    "one frame, one channel": ([[2]], 1, 3),
    "one run": ([[1] * 7], 5, 3),
    "all blank": ([[0] * 5, [0] * 5], 4, 3),
    "all distinct": ([[3, 1, 2, 4, 5, 0]], 4, 6),
    "an empty row, ragged": ([[1, 1, 0, 0, 2, 2, 2, 1], [None] * 8, [0, 3, 3, 0, 3, None, None, None]], 33, 4),
    "the same label on both sides of a blank": ([[1, 0, 1, 1, 0, 0, 1]], 16, 2),
    "channels over two blocks": ([[1, 1, 2], [0, 2, 2]], 300, 3),
    "a vocabulary that no block divides": ([[4499, 4499, 7, 4096]], 3, 4500),
    "the vocabulary of Llama 3": ([[128255, 128255, 0]], 3, 128256),
}
# weighting, keep_blank, cap
OPTIONS = [("mean", True, None), ("prob", False, None), ("softmax", True, 2), ("prob", True, 2), ("mean", False, 1)]


def make_inputs(case: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """h, lengths, logits of a case; the padding is NaN."""
    rows, channels, vocabulary = CASES[case]
    generator = torch.Generator().manual_seed(len(case))
    lengths = torch.tensor([sum(label is not None for label in row) for row in rows])
    labels = torch.tensor([[0 if label is None else label for label in row] for row in rows])
    h = torch.randn((*labels.shape, channels), generator=generator).to(dtype)
    logits = torch.randn((*labels.shape, vocabulary), generator=generator).clamp(-2, 2).to(dtype)
    logits.scatter_(2, labels.unsqueeze(2), 3.0)
    padding = torch.arange(labels.shape[1]) >= lengths.unsqueeze(1)
    h[padding], logits[padding] = math.nan, math.nan
    return h, lengths, logits


def run(
    inputs: tuple[Tensor, Tensor, Tensor],
    backend: str,
    options: tuple[Any, ...],
    cotangent: Tensor | None = None,
    *,
    wide: bool = False,
) -> tuple[CtcCollapseOutput, dict[str, Tensor]]:
    """The output and the gradients by name, for a cotangent that is the same for every backend; `wide` computes in
    float64."""
    h, lengths, logits = inputs
    dtype = h.dtype
    weighting, keep_blank, cap = options
    if wide:
        h, logits = h.double(), logits.double()
    h, logits = h.detach().requires_grad_(), logits.detach().requires_grad_(weighting != "mean")
    leaves = {"h": h, "logits": logits}
    output = ctc_collapse(
        h, lengths, logits=logits, weighting=weighting, keep_blank=keep_blank, max_output_length=cap, backend=backend
    )
    if cotangent is None:
        cotangent = torch.randn(output.seqs.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    output.seqs.backward(cotangent.to(output.seqs))
    return output, {
        # Without any run no weight depends on the logits; None and zeros are then the same gradient.
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
        if leaf.requires_grad
    }


def relative_error(value: Tensor, expected: Tensor) -> float:
    assert value.shape == expected.shape
    scale = expected.double().norm().item()
    difference = (value.double() - expected.double()).norm().item()
    # A gradient that is zero but for rounding (of a weight that is always 1) has no scale.
    return difference / scale if scale > 1e-9 else difference
