"""CIF: where tokens begin and end, and how many there are: rounding, thresholds, caps, bad weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from speechllm_kernels.cif import cif, ops
from speechllm_kernels.cif.token_plan import Plan

from tests.kernels.backends import BACKENDS, DEVICE, FAST
from tests.kernels.cif_cases import assert_close, make_inputs, run


@pytest.mark.full_chunks
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("trained", [False, True], ids=["inference", "training"])
def test_plans_of_very_long_rows(trained: bool, backend: str) -> None:
    """30000 frames: sums in float32 would be off by whole frames here."""
    generator = torch.Generator().manual_seed(0)
    alpha = torch.rand(2, 30000, generator=generator)
    # Sums to an integer in exact arithmetic.
    alpha[1] = 0.25
    lengths = torch.tensor([29000, 30000])
    targets = torch.tensor([2500, 7500]) if trained else None
    arguments = (1.0, 0.0, 0.5, False, False)
    moved = (alpha.to(DEVICE), lengths.to(DEVICE), None if targets is None else targets.to(DEVICE))
    plan = Plan(*ops.cif_plan(*moved, 16000, *arguments, backend))
    valid = torch.arange(30000) < lengths[:, None]
    position = (alpha.double() * valid).cumsum(1)
    if targets is not None:
        position = position * (targets / position[:, -1])[:, None]
    assert (plan.cum.cpu() - position).abs().max() < 1e-8
    expected = [2500, 7500] if trained else [round(float(end)) for end in position[:, -1]]
    assert plan.lengths.tolist() == expected
    for row, count in enumerate(expected):
        # The frame before has not completed the token, the frame itself has.
        full = min(count, int(position[row, -1] + 1e-9))
        fires = plan.fire_frames[row, :full].cpu()
        token = torch.arange(1, full + 1)
        assert (position[row, fires] >= token - 1e-8).all()
        assert (position[row, (fires - 1).clamp(min=0)] < token + 1e-8).all()
        assert (plan.fire_frames[row, count:] == -1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rounding_moves_no_token(backend: Any) -> None:
    """Equal weights: every 7th frame completes a token, though in two of these rows rounding leaves a sum below."""
    alpha = torch.rand(13, 1, generator=torch.Generator().manual_seed(0))[-6:].expand(6, 70)
    h, lengths = torch.zeros(6, 70, 1), torch.full((6,), 70)
    output = cif(
        h.to(DEVICE), alpha.to(DEVICE), lengths.to(DEVICE), target_lengths=(lengths // 7).to(DEVICE), backend=backend
    )
    assert output.fire_frames.tolist() == [list(range(6, 70, 7))] * 6
    if backend != "triton":
        tenths = torch.full((1, 10), 0.1, dtype=torch.float64)
        assert cif(torch.zeros(1, 10, 1), tenths, torch.tensor([10]), tail="drop", backend=backend).lengths == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tail_of_just_the_threshold(backend: Any) -> None:
    h, alpha = torch.ones(1, 2, 1, device=DEVICE), torch.tensor([[1.0, 0.5]], device=DEVICE)
    lengths = torch.tensor([2], device=DEVICE)
    assert cif(h, alpha, lengths, backend=backend).lengths == 2
    assert cif(h, alpha, lengths, tail_strict=True, backend=backend).lengths == 1
    # A tail of nothing is none.
    assert cif(h, alpha * 2, lengths, tail_threshold=0.0, backend=backend).lengths == 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("alpha", "beta", "threshold", "full"),
    [([0.25] * 32, 0.75, 2 / 3, 10), ([0.375], 1.25, 0.3, 0), ([0.5] * 5, 0.7, 4 / 7, 3), ([1.0, 0.75], 2.5, 0.7, 0)],
)
def test_a_tail_at_a_threshold_that_binary_numbers_round(
    alpha: list[float], beta: float, threshold: float, full: int, backend: Any
) -> None:
    """Neither float32 nor float64 holds these shares of beta: all round them, and take the tail for the threshold."""
    h, lengths = torch.ones(1, len(alpha), 1, device=DEVICE), torch.tensor([len(alpha)], device=DEVICE)
    given = {}
    for strict in (False, True):
        output = cif(
            h,
            torch.tensor([alpha], device=DEVICE),
            lengths,
            beta=beta,
            tail_threshold=threshold,
            tail_strict=strict,
            backend=backend,
        )
        given[strict] = int(output.lengths)
    assert given == {False: full + 1, True: full}


@pytest.mark.parametrize(
    ("trained", "options"),
    [
        (False, (0.7, 0.0, 1 / 3, False, True)),
        (False, (1.3, 0.0, 0.1, True, True)),
        (True, (0.7, 1e-4, 0.5, False, False)),
        (True, (0.9, 0.0, 0.5, False, False)),
    ],
)
def test_plans_have_the_same_bits_everywhere(trained: bool, options: tuple[Any, ...]) -> None:
    """No number that decides is taken in float32 anywhere; the weights' sums are exact in float64, in any order."""
    pytest.importorskip("triton")
    _, alpha, lengths, targets = make_inputs("ragged")
    alpha = alpha.nan_to_num(0.0)
    assert torch.equal(alpha, (alpha * 2**24).round() / 2**24)
    arguments = (alpha, lengths, targets if trained else None, 13, *options)
    plans = [Plan(*ops.cif_plan(*arguments, backend)) for backend in ("torch", "triton")]
    for name, first, second in zip(Plan._fields, *plans, strict=True):
        assert torch.equal(first, second), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("trained", [False, True], ids=["inference", "training"])
def test_a_cap_smaller_than_needed_is_counted(trained: bool, backend: Any) -> None:
    h, alpha, lengths, targets = make_inputs("ragged")
    options = {"target_lengths": targets if trained else None, "backend": backend}
    whole = cif(h, alpha, lengths, **options)
    capped, gradients = run(h, alpha, lengths, max_output_length=2, **options)
    assert capped.seqs.shape[1] == 2
    assert torch.equal(capped.lengths, whole.lengths.clamp(max=2))
    assert torch.equal(capped.lengths + capped.overflow, whole.lengths)
    assert torch.equal(capped.seqs, whole.seqs[:, :2])
    assert torch.equal(capped.fire_frames, whole.fire_frames[:, :2])
    expected = run(h, alpha, lengths, wide=True, max_output_length=2, **options | {"backend": "reference"})
    for name, gradient in gradients.items():
        assert_close(name, gradient, expected[1][name], 3e-6)
    generous = cif(h, alpha, lengths, max_output_length=19, **options)
    assert generous.seqs.shape[1] == 19 and not generous.overflow.any()
    assert torch.equal(generous.seqs[:, : whole.seqs.shape[1]], whole.seqs)
    assert (generous.seqs[:, whole.seqs.shape[1] :] == 0).all()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.5, 1e30])
def test_bad_alpha_corrupts_nothing_and_shows_in_the_sum(bad: float, backend: Any) -> None:
    h, alpha, lengths, targets = make_inputs("ragged")
    clean = cif(h, alpha, lengths, max_output_length=9, backend=backend)
    alpha[1, 4] = bad
    for options in ({}, {"target_lengths": targets}):
        output = cif(h, alpha, lengths, max_output_length=9, backend=backend, **options)
        assert ((output.fire_frames >= -1) & (output.fire_frames < h.shape[1])).all()
        total = alpha[1, : int(lengths[1])].double().sum()
        assert torch.allclose(output.alpha_sum[1].double(), total, equal_nan=True)
        if not options:
            assert torch.equal(output.seqs[0], clean.seqs[0]) and torch.equal(output.seqs[2:], clean.seqs[2:])
