"""CTC collapse as PyTorch and a caller see it: compilation, operators, messages for bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from speechllm_kernels.ctc_collapse import CtcCollapseOutput, ctc_collapse, ops
from torch import Tensor

from tests.kernels.backends import FAST
from tests.kernels.ctc_collapse_cases import make_inputs


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("weighting", ["mean", "prob"])
def test_compiles_whole_with_a_cap(weighting: Any, backend: str) -> None:
    h, lengths, logits = make_inputs("an empty row, ragged")

    def function(h: Tensor, logits: Tensor) -> CtcCollapseOutput:
        return ctc_collapse(h, lengths, logits=logits, weighting=weighting, max_output_length=4, backend=backend)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for call in (function, compiled):
        a, b = h.clone().requires_grad_(), logits.clone().requires_grad_()
        output = call(a, b)
        output.seqs.pow(2).sum().backward()
        *tensors, read = output
        assert read is None
        results.append([*tensors, a.grad, *([b.grad] if weighting == "prob" else [])])
    for eager, traced in zip(*results, strict=True):
        assert torch.equal(eager, traced)


def test_operators_are_well_formed() -> None:
    """Schemas, fake kernels and autograd registrations, as PyTorch checks them."""
    h, lengths, logits = make_inputs("the same label on both sides of a blank", torch.bfloat16)
    labels, *sums = ops.label_frames(logits, lengths, True, "torch")
    slots, _, starts, ends, _, _ = ops.plan(labels, lengths, 0, True, 4, "torch")
    seqs, norms = ops.pool(h, sums[0], slots, starts, ends, 4, False, "torch")
    plan = (slots, starts, ends)
    calls = [
        (ops.label_frames_backward, (sums[0], logits, lengths, labels, *sums, "torch")),
        (ops.pool_backward, (seqs, h, sums[0], *plan, norms, False, True, "torch")),
        (ops.pool_backward, (seqs, h, None, *plan, norms, True, False, "torch")),
        (ops.plan, (labels, lengths, 0, True, 4, "torch")),
        (ops.label_frames, (logits.requires_grad_(), lengths, True, "torch")),
        (ops.pool, (h.requires_grad_(), sums[0].requires_grad_(), *plan, 4, False, "torch")),
    ]
    for operator, arguments in calls:
        # PyTorch's fourth check adds up all outputs, which it cannot where some are integers; the test of
        # torch.compile above stands for it.
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(operator.definition, arguments, test_utils=checks)


GOOD: dict[str, Any] = {"h": torch.ones(2, 3, 4), "lengths": torch.tensor([3, 2]), "logits": torch.ones(2, 3, 5)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"h": torch.ones(2, 3)}, "`h` must be of shape [B, T, C], none of them 0, but is [2, 3]."),
        (
            {"h": torch.ones(2, 3, 4, dtype=torch.int32)},
            "`h` must be one of float32, bfloat16, float16, float64, but is int32.",
        ),
        ({"lengths": torch.tensor([3])}, "`lengths` must be of shape [2] to match `h`, but is [1]."),
        ({"lengths": torch.tensor([3.0, 2.0])}, "`lengths` must be int64 or int32, but is float32."),
        (
            {"lengths": torch.tensor([3, 4])},
            "`lengths` must be between 0 and 3 (the frames of `h`), but is 4 in row 1.",
        ),
        (
            {"lengths": torch.tensor([-1, 2])},
            "`lengths` must be between 0 and 3 (the frames of `h`), but is -1 in row 0.",
        ),
        ({"logits": torch.ones(2, 4, 5)}, "`logits` must be of shape [2, 3, 5] to match `h`, but is [2, 4, 5]."),
        ({"logits": torch.ones(2, 3, 5, device="meta")}, "`logits` must be on cpu like `h`, but is on meta."),
        ({"logits": None}, "Exactly one of `logits` and `labels` must be given, but neither are."),
        ({"labels": torch.ones(2, 3).long()}, "Exactly one of `logits` and `labels` must be given, but both are."),
        ({"logits": None, "labels": torch.ones(2, 3)}, "`labels` must be integers, but are float32."),
        (
            {"logits": None, "labels": torch.ones(2, 3).long(), "weighting": "prob"},
            "`weighting` is 'prob', which needs `logits`, but only `labels` are given.",
        ),
        ({"blank": 5}, "`blank` must be between 0 and 4 (V - 1 of `logits`), but is 5."),
        ({"weighting": "max"}, "`weighting` must be one of mean, prob, softmax, but is 'max'."),
        ({"max_output_length": 0}, "`max_output_length` must be an int of at least 1 or None, but is 0."),
        ({"backend": "cuda"}, "`backend` must be one of auto, reference, torch, triton, dense, but is 'cuda'."),
        (
            {"logits": torch.full((2, 3, 5), math.nan), "validate": True},
            "`logits` must not be NaN, but are in row 0, frame 0.",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_bad_input_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ctc_collapse(**{**GOOD, **changes})
    assert str(caught.value) == message


def test_validation_ignores_the_padding() -> None:
    h, lengths, logits = make_inputs("an empty row, ragged")
    ctc_collapse(h, lengths, logits=logits, validate=True)
