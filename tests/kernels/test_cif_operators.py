"""CIF as PyTorch and a caller see it: compilation, operators, messages for bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from speechllm_kernels.cif import cif, ops
from torch import Tensor

from tests.kernels.cif_cases import make_inputs


def test_compiles_whole() -> None:
    h, alpha, lengths, targets = make_inputs("ragged")

    def step(h: Tensor, alpha: Tensor, lengths: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        output = cif(h, alpha, lengths, target_lengths=targets, max_output_length=9)
        return (output.seqs.square().sum() + output.alpha_sum.sum()), output.fire_frames

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        leaves = h.clone().requires_grad_(), alpha.clone().requires_grad_()
        loss, fires = function(*leaves, lengths, targets)
        results.append((loss.detach(), fires, *torch.autograd.grad(loss, leaves)))
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


def test_operators_keep_their_contracts() -> None:
    h, alpha, lengths, targets = (tensor.cpu() for tensor in make_inputs("several tokens in one frame"))
    padding = torch.arange(h.shape[1]) >= lengths[:, None]
    h[padding], alpha[padding] = 0, 0
    arguments = (lengths, targets, 31, 1.0, 0.0, 0.5, False, False, "torch")
    plan = ops.cif_plan(alpha, *arguments)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.cif_plan.definition, (alpha, *arguments), test_utils=checks)
    options = (True, 1.0, False, False, "torch")
    torch.library.opcheck(ops.cif_integrate.definition, (h, alpha, lengths, *plan, *options), test_utils=checks)
    seqs = ops.cif_integrate(h, alpha, lengths, *plan, *options)
    for need in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            ops.cif_integrate_backward.definition,
            (torch.randn_like(seqs), h, lengths, *plan, *options, torch.float32, *need),
            test_utils=checks,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h": torch.zeros(2, 5)}, r"`h` must be of shape \[B, T, C\].*but is \[2, 5\]"),
        ({"h": torch.zeros(2, 5, 3, dtype=torch.int64)}, "`h` must be one of .*but is int64"),
        ({"alpha": torch.zeros(2, 4)}, r"`alpha` must be of shape \[2, 5\].*but is \[2, 4\]"),
        ({"alpha": torch.zeros(2, 5, dtype=torch.int64)}, "`alpha` must be floating-point, but is int64"),
        ({"lengths": torch.tensor([5])}, r"`lengths` must be of shape \[2\].*but is \[1\]"),
        ({"lengths": torch.tensor([5, 6])}, "`lengths` must be between 0 and 5 .*but is 6 in row 1"),
        ({"lengths": torch.tensor([5.0, 5.0])}, "`lengths` must be int64 or int32, but is float32"),
        ({"target_lengths": torch.tensor([2, -1])}, "`target_lengths` must be at least 0, but is -1 in row 1"),
        ({"target_lengths": torch.tensor([2.0, 1.0])}, "`target_lengths` must be int64 or int32, but is float32"),
        ({"target_lengths": torch.tensor([2])}, r"`target_lengths` must be of shape \[2\].*but is \[1\]"),
        ({"alpha": torch.tensor([[0.1] * 5, [0.1, -1, 0, 0, 0]]), "validate": True}, "-1.0 in row 1, frame 1"),
        ({"alpha": torch.tensor([[math.nan] * 5] * 2), "validate": True}, "`alpha` must be finite.*nan in row 0"),
        ({"beta": 0.0}, "`beta` must be a finite number above 0, but is 0.0"),
        ({"tail": "keep"}, "`tail` must be one of fire, drop, but is 'keep'"),
        ({"tail_rescale": "yes"}, "`tail_rescale` must be one of none, renorm, renorm_detach, but is 'yes'"),
        ({"tail_threshold": 1.5}, "`tail_threshold` must be from 0 to 1, but is 1.5"),
        ({"scale_eps": -1.0}, "`scale_eps` must be a finite number of at least 0, but is -1.0"),
        ({"length_mode": "ceil"}, "`length_mode` must be one of floor, round, but is 'ceil'"),
        ({"length_mode": "round", "tail": "drop"}, "`length_mode` must be 'floor' when `tail` is 'drop'"),
        ({"max_output_length": 0}, "`max_output_length` must be an int of at least 1 or None, but is 0"),
        ({"backend": "cuda"}, "`backend` must be one of auto, reference, torch, triton, dense, but is 'cuda'"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    arguments = {"h": torch.zeros(2, 5, 3), "alpha": torch.full((2, 5), 0.3), "lengths": torch.tensor([5, 4])}
    with pytest.raises(ValueError, match=message):
        cif(**arguments | change)
    # What is wrong in the padding is nobody's fault.
    padded = torch.tensor([[0.3] * 5, [0.3] * 4 + [math.nan]])
    cif(**arguments | {"alpha": padded, "validate": True})
