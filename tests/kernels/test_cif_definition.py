"""CIF: the reference against exact fractions and against torch_cif, and gradients against differences."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from speechllm_kernels.cif import cif
from torch import Tensor

from tests.kernels.cif_cases import CASES, OPTIONS, assert_close, make_inputs


def integrate_and_fire(
    h: Tensor, alpha: list[float], target: int | None, *, beta: float = 1.0, threshold: Fraction = Fraction(1, 2)
) -> tuple[list[Tensor], list[int]]:
    """The definition, frame by frame, in exact fractions: tokens and the frames that complete them."""
    weights = [Fraction(value) for value in alpha]
    limit = Fraction(beta)
    if target is not None:
        total = sum(weights)
        weights = [weight * target * limit / total if total else Fraction(0) for weight in weights]
    tokens, fires = [], []
    token, filled = torch.zeros(h.shape[1], dtype=torch.float64), Fraction(0)
    for frame, weight in enumerate(weights):
        while filled + weight >= limit:
            tokens.append(token + float(limit - filled) * h[frame].double())
            fires.append(frame)
            weight -= limit - filled
            token, filled = torch.zeros_like(token), Fraction(0)
        token = token + float(weight) * h[frame].double() if weight else token
        filled += weight
    if target is None and filled > 0 and filled >= threshold * limit:
        tokens.append(token)
        fires.append(len(alpha) - 1)
    while target is not None and len(tokens) < target:
        tokens.append(torch.zeros_like(token))
        fires.append(len(alpha) - 1)
    return tokens, fires


@pytest.mark.parametrize("trained", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("case", CASES)
def test_reference_is_the_definition(case: str, trained: bool) -> None:
    h, alpha, lengths, targets = (tensor.cpu() for tensor in make_inputs(case))
    output = cif(h.double(), alpha.double(), lengths, target_lengths=targets if trained else None, backend="reference")
    for row, length in enumerate(lengths.tolist()):
        target = int(targets[row]) if trained else None
        tokens, fires = integrate_and_fire(h[row], alpha[row, :length].tolist(), target)
        assert output.lengths[row] == len(tokens)
        assert output.fire_frames[row, : len(fires)].tolist() == fires
        assert (output.fire_frames[row, len(fires) :] == -1).all()
        for u, token in enumerate(tokens):
            assert_close(f"token {u} of row {row}", output.seqs[row, u], token, 1e-9)
        assert (output.seqs[row, len(tokens) :] == 0).all()
    assert output.overflow.tolist() == [0] * len(lengths)


@pytest.mark.parametrize("backend", ["reference", "torch"])
# A detached factor is meant to be missing from the gradient.
@pytest.mark.parametrize("option", [*(name for name in OPTIONS if "detached" not in name), "training"])
def test_gradcheck(option: str, backend: Any) -> None:
    h, alpha, lengths, targets = (tensor.cpu() for tensor in make_inputs("ragged", torch.float64))
    padding = torch.arange(h.shape[1]) >= lengths[:, None]
    h, alpha = h[:, :, :3].clone(), alpha.clone()
    h[padding], alpha[padding] = 0, 0
    options = {"target_lengths": targets} if option in ("training", "eps") else {}
    options |= OPTIONS.get(option, {})

    def function(h: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        output = cif(h, alpha, lengths, backend=backend, **options)
        return output.seqs, output.alpha_sum

    assert torch.autograd.gradcheck(function, (h.requires_grad_(), alpha.requires_grad_()), fast_mode=True)


@pytest.mark.parametrize("trained", [False, True], ids=["inference", "training"])
def test_agrees_with_torch_cif(trained: bool) -> None:
    torch_cif = pytest.importorskip("torch_cif")
    generator = torch.Generator().manual_seed(3)
    h = torch.randn(4, 60, 8, generator=generator).requires_grad_()
    alpha = torch.rand(4, 60, generator=generator).requires_grad_()
    lengths, targets = torch.tensor([60, 51, 40, 60]), torch.tensor([12, 30, 5, 30])
    padding = torch.arange(60) >= lengths[:, None]
    theirs = torch_cif.cif_function(h, alpha, padding_mask=padding, target_lengths=targets if trained else None)
    mine = cif(
        h,
        alpha,
        lengths,
        target_lengths=targets if trained else None,
        tail_rescale="renorm_detach",
        scale_eps=1e-4,
        backend="torch",
    )
    assert torch.equal(mine.lengths, theirs["cif_lengths"][0])
    # It leaves the eps in the slot after a shorter row's last token.
    used = torch.arange(mine.seqs.shape[1]) < mine.lengths[:, None]
    found, expected = mine.seqs[used], theirs["cif_out"][0][used]
    assert_close("seqs", found, expected, 2e-6)
    assert_close("alpha_sum", mine.alpha_sum, theirs["alpha_sum"][0], 1e-6)
    cotangent = torch.randn(found.shape, generator=generator)
    for name, gradient, other in zip(
        ("dh", "dalpha"),
        torch.autograd.grad(found, (h, alpha), cotangent),
        torch.autograd.grad(expected, (h, alpha), cotangent),
        strict=True,
    ):
        assert_close(name, gradient, other, 1e-5)
