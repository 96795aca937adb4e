"""CIF: the reference against exact fractions, the other backends against the reference, gradients by name."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from speechllm_kernels.cif import CifOutput, cif, ops
from speechllm_kernels.cif.plan import Plan
from torch import Tensor

TOLERANCES = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HAS_TRITON = importlib.util.find_spec("triton") is not None
FAST = ["torch", pytest.param("triton", marks=pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed"))]


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


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Memory that is handed out holds NaN, so a kernel that leaves an element unwritten shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


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
    h: Tensor, alpha: Tensor, *arguments: Any, wide: bool = False, **options: Any
) -> tuple[CifOutput, dict[str, Tensor]]:
    """The output and the gradients of a random function of `seqs` and `alpha_sum`; `wide` computes in float64."""
    dtype = h.dtype
    if wide:
        h, alpha = h.double(), alpha.double()
    h, alpha = h.detach().requires_grad_(), alpha.detach().requires_grad_()
    output = cif(h, alpha, *arguments, **options)
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(output.seqs.shape, generator=generator).to(DEVICE, dtype).to(h.dtype)
    loss = (output.seqs * cotangent).sum() + output.alpha_sum.sum() / 8
    grad_h, grad_alpha = torch.autograd.grad(loss, (h, alpha))
    return output, {"dh": grad_h, "dalpha": grad_alpha}


def assert_close(name: str, value: Tensor, expected: Tensor, tolerance: float) -> None:
    assert value.shape == expected.shape, name
    value, expected = value.detach().double(), expected.detach().double()
    error = (value - expected).norm() / expected.norm().clamp(min=1e-3)
    assert error <= tolerance, f"{name} is off by {error:.1e}"


def assert_agrees(found: tuple[CifOutput, dict[str, Tensor]], expected: tuple[CifOutput, dict[str, Tensor]]) -> None:
    output, gradients = found
    tolerance = TOLERANCES[output.seqs.dtype]
    for name in ("lengths", "fire_frames", "overflow"):
        assert torch.equal(getattr(output, name), getattr(expected[0], name)), name
    assert_close("seqs", output.seqs, expected[0].seqs, tolerance)
    assert_close("alpha_sum", output.alpha_sum, expected[0].alpha_sum, 3e-6)
    for name, gradient in gradients.items():
        assert_close(name, gradient, expected[1][name], tolerance)


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


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("trained", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("case", CASES)
def test_backends_agree_with_the_reference(case: str, trained: bool, backend: str) -> None:
    h, alpha, lengths, targets = make_inputs(case)
    options = {"target_lengths": targets if trained else None}
    found = run(h, alpha, lengths, backend=backend, **options)
    assert_agrees(found, run(h, alpha, lengths, wide=True, backend="reference", **options))
    padding = torch.arange(h.shape[1], device=DEVICE) >= lengths[:, None]
    for name, gradient in found[1].items():
        assert (gradient[padding] == 0).all(), f"{name} of the padding"
    unused = torch.arange(found[0].seqs.shape[1], device=DEVICE) >= found[0].lengths[:, None]
    assert (found[0].seqs[unused] == 0).all()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("option", OPTIONS)
def test_options_agree_with_the_reference(option: str, backend: str) -> None:
    h, alpha, lengths, targets = make_inputs("ragged")
    options = {"target_lengths": targets if option == "eps" else None, **OPTIONS[option]}
    found = run(h, alpha, lengths, backend=backend, **options)
    assert_agrees(found, run(h, alpha, lengths, wide=True, backend="reference", **options))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_agree_with_the_reference(dtype: torch.dtype, backend: str) -> None:
    h, alpha, lengths, targets = make_inputs("ragged", dtype)
    found = run(h, alpha, lengths, target_lengths=targets, backend=backend)
    assert found[0].seqs.dtype == dtype and found[1]["dalpha"].dtype == dtype
    assert_agrees(found, run(h, alpha, lengths, wide=True, target_lengths=targets, backend="reference"))
    # The usual mixture: features in half precision, weights in single.
    found = run(h, alpha.float(), lengths, target_lengths=targets, backend=backend)
    assert found[1]["dalpha"].dtype == torch.float32
    assert_agrees(found, run(h, alpha, lengths, wide=True, target_lengths=targets, backend="reference"))


@pytest.mark.parametrize("rescale", ["renorm", "none"])
@pytest.mark.parametrize("trained", [False, True])
def test_triton_splits_long_rows(trained: bool, rescale: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks per row: the sums of each are shared through memory."""
    pytest.importorskip("triton")
    from speechllm_kernels.cif import triton_backward, triton_scan

    h, alpha, lengths, targets = make_inputs("ragged")
    options = {"target_lengths": targets if trained else None, "tail_rescale": rescale, "tail_threshold": 0.01}
    expected = run(h, alpha, lengths, wide=True, backend="reference", **options)
    monkeypatch.setattr(triton_scan, "CHUNK", 8)
    monkeypatch.setattr(triton_backward, "CHUNK", 8)
    assert_agrees(run(h, alpha, lengths, backend="triton", **options), expected)


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


@pytest.mark.parametrize("backend", ["reference", *FAST])
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


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_a_tail_of_just_the_threshold(backend: Any) -> None:
    h, alpha = torch.ones(1, 2, 1, device=DEVICE), torch.tensor([[1.0, 0.5]], device=DEVICE)
    lengths = torch.tensor([2], device=DEVICE)
    assert cif(h, alpha, lengths, backend=backend).lengths == 2
    assert cif(h, alpha, lengths, tail_strict=True, backend=backend).lengths == 1
    # A tail of nothing is none.
    assert cif(h, alpha * 2, lengths, tail_threshold=0.0, backend=backend).lengths == 3


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("dtype", "frames"), [(torch.bfloat16, 1021), (torch.float16, 1434)])
def test_half_precisions_are_summed_in_single(dtype: torch.dtype, frames: int, backend: Any) -> None:
    """As many equal weights, were they rounded to the dtype, would not sum to 1."""
    h = torch.ones(1, frames, 1, dtype=dtype, device=DEVICE)
    alpha = torch.full((1, frames), 0.3, device=DEVICE)
    one = torch.tensor([1], device=DEVICE)
    output = cif(h, alpha, one * frames, target_lengths=one, backend=backend)
    # Triton's interpreter rounds towards 0: one step of the dtype.
    step = torch.finfo(dtype).eps / 2 if backend == "triton" else 0
    assert abs(output.seqs.item() - 1) <= step


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


@pytest.mark.parametrize("backend", FAST)
def test_only_one_input_requires_a_gradient(backend: Any) -> None:
    h, alpha, lengths, targets = make_inputs("ragged")
    _, both = run(h, alpha, lengths, target_lengths=targets, backend=backend)
    for name, leaf in (("dh", h), ("dalpha", alpha)):
        leaf.requires_grad_()
        output = cif(h, alpha, lengths, target_lengths=targets, backend=backend)
        generator = torch.Generator().manual_seed(1)
        (gradient,) = torch.autograd.grad(
            output.seqs, leaf, torch.randn(output.seqs.shape, generator=generator).to(DEVICE)
        )
        if name == "dalpha":
            gradient = gradient + (torch.arange(h.shape[1], device=DEVICE) < lengths[:, None]) / 8
        assert torch.allclose(gradient, both[name], rtol=1e-6, atol=1e-6), name
        leaf.requires_grad_(False)
    frozen = cif(h, alpha, lengths, backend=backend)
    assert not frozen.seqs.requires_grad and not frozen.alpha_sum.requires_grad


@pytest.mark.parametrize("backend", FAST)
def test_any_strides(backend: Any) -> None:
    h, alpha, lengths, targets = make_inputs("ragged")
    expected = run(h, alpha, lengths, target_lengths=targets, backend=backend)
    strided = (
        h.transpose(1, 2).contiguous().transpose(1, 2),
        torch.stack((alpha, alpha * 0), 2)[:, :, 0],
        torch.stack((lengths, lengths * 0), 1)[:, 0],
    )
    assert not any(tensor.is_contiguous() for tensor in strided)
    found = run(*strided, target_lengths=torch.stack((targets, targets), 1)[:, 0], backend=backend)
    assert_agrees(found, expected)
    # A gradient that is one number seen everywhere.
    h.requires_grad_()
    cif(h, alpha, lengths, target_lengths=targets, backend=backend).seqs.sum().backward()
    wide = h.detach().double().requires_grad_()
    cif(wide, alpha.double(), lengths, target_lengths=targets, backend="reference").seqs.sum().backward()
    assert h.grad is not None and wide.grad is not None
    assert_close("dh", h.grad, wide.grad, 3e-6)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("trained", [False, True], ids=["inference", "training"])
def test_a_batch_equals_its_rows_alone_and_repeats_itself(trained: bool, backend: Any) -> None:
    h, alpha, lengths, targets = make_inputs("ragged")

    cotangent = torch.randn(len(h), 13, h.shape[2], generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def with_gradients(chosen: slice) -> list[Tensor]:
        frames = int(lengths[chosen].max())
        leaves = [tensor[chosen, :frames].detach().requires_grad_() for tensor in (h, alpha)]
        output = cif(
            *leaves,
            lengths[chosen],
            target_lengths=targets[chosen] if trained else None,
            max_output_length=13,
            backend=backend,
        )
        gradients = torch.autograd.grad(output.seqs, leaves, cotangent[chosen])
        return [output.seqs, output.fire_frames, output.alpha_sum, *gradients]

    batch = with_gradients(slice(None))
    for value, again in zip(batch, with_gradients(slice(None)), strict=True):
        assert torch.equal(value, again)
    for row, length in enumerate(lengths.tolist()):
        seqs, fires, sums, grad_h, grad_alpha = with_gradients(slice(row, row + 1))
        for value, expected in zip((seqs, fires, sums), batch, strict=False):
            assert torch.equal(value[0], expected[row])
        assert torch.equal(grad_h[0], batch[3][row, :length])
        if backend == "triton":
            assert torch.equal(grad_alpha[0], batch[4][row, :length])
        else:  # BLAS takes the products of a frame in an order that depends on its address.
            assert_close("dalpha", grad_alpha[0], batch[4][row, :length], 1e-6)


@pytest.mark.parametrize("backend", ["reference", *FAST])
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
    torch.library.opcheck(ops.cif_plan, (alpha, *arguments), test_utils=checks)
    options = (True, 1.0, False, False, "torch")
    torch.library.opcheck(ops.cif_integrate, (h, alpha, lengths, *plan, *options), test_utils=checks)
    seqs = ops.cif_integrate(h, alpha, lengths, *plan, *options)
    for need in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            ops.cif_integrate_backward,
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
        ({"backend": "cuda"}, "`backend` must be one of auto, reference, torch, triton, but is 'cuda'"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    arguments = {"h": torch.zeros(2, 5, 3), "alpha": torch.full((2, 5), 0.3), "lengths": torch.tensor([5, 4])}
    with pytest.raises(ValueError, match=message):
        cif(**arguments | change)
    # What is wrong in the padding is nobody's fault.
    padded = torch.tensor([[0.3] * 5, [0.3] * 4 + [math.nan]])
    cif(**arguments | {"alpha": padded, "validate": True})


def test_imports_torch_and_triton_only() -> None:
    code = (
        "import sys, speechllm_kernels.cif, speechllm_kernels.cif.triton_impl\n"
        "print(sorted({'fairseq2', 'transformers', 'torch_cif', 'numba', 'scipy'} & set(sys.modules)))\n"
    )
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
