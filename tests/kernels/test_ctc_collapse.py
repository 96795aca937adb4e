"""CTC collapse against a plain Python loop: values, spans and gradients of every backend."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest
import torch
from speechllm_kernels.ctc_collapse import CtcCollapseOutput, ctc_collapse, ops
from torch import Tensor

TOLERANCES = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
BACKENDS = ["reference", "torch", "triton"]

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


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Memory that is handed out holds NaN, so a kernel that leaves an element unwritten shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


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


def loop(
    h: Tensor, lengths: Tensor, logits: Tensor, weighting: str, keep_blank: bool, cap: int | None
) -> dict[str, Any]:
    """The definition in Python numbers."""
    rows = []
    for frames, scores, length in zip(h.tolist(), logits.tolist(), lengths.tolist(), strict=True):
        labels = [max(range(len(row)), key=row.__getitem__) for row in scores[:length]]
        powers = [[math.exp(x) for x in row] for row in scores[:length]]
        p = [row[label] / sum(row) for row, label in zip(powers, labels, strict=True)]
        weights = {"mean": [1.0] * length, "prob": p, "softmax": [math.exp(x) for x in p]}[weighting]
        runs = [
            (label, [t for _, t in group])
            for label, group in groupby(zip(labels, range(length), strict=True), lambda x: x[0])
        ]
        runs = [run for run in runs if keep_blank or run[0] != 0]
        slots: list[tuple[int, list[int]]] = []
        for r, (label, members) in enumerate(runs):
            if cap is not None and len(runs) > cap and r and r * cap // len(runs) == (r - 1) * cap // len(runs):
                slots[-1][1].extend(members)
            else:
                slots.append((label, list(members)))
        means = []
        for _, members in slots:
            norm = sum(weights[t] for t in members)
            means.append([sum(weights[t] * frames[t][c] for t in members) / norm for c in range(h.shape[2])])
        rows.append((means, slots, len(runs) - len(slots), labels))
    width = max(len(row[0]) for row in rows) if cap is None else min(cap, h.shape[1])

    def padded(values: list[Any], size: int, empty: Any) -> list[Any]:
        return values + [empty] * (size - len(values))

    spans = [[(label, members[0], members[-1] + 1) for label, members in row[1]] for row in rows]
    filled = [padded(span, width, (-1, 0, 0)) for span in spans]
    return {
        "seqs": torch.tensor([padded(row[0], width, [0.0] * h.shape[2]) for row in rows], dtype=torch.float64).view(
            len(rows), width, h.shape[2]
        ),
        "lengths": [len(row[1]) for row in rows],
        "labels": [[slot[0] for slot in row] for row in filled],
        "starts": [[slot[1] for slot in row] for row in filled],
        "ends": [[slot[2] for slot in row] for row in filled],
        "merged": [row[2] for row in rows],
        "frame_labels": [padded(row[3], h.shape[1], -1) for row in rows],
    }


def relative_error(value: Tensor, expected: Tensor) -> float:
    assert value.shape == expected.shape
    scale = expected.double().norm().item()
    difference = (value.double() - expected.double()).norm().item()
    # A gradient that is zero but for rounding (of a weight that is always 1) has no scale.
    return difference / scale if scale > 1e-9 else difference


def run(
    case: str, backend: str, options: tuple[Any, ...], dtype: torch.dtype = torch.float32
) -> tuple[CtcCollapseOutput, dict[str, Tensor]]:
    """The output and the gradients by name, for a cotangent that is the same for every backend."""
    h, lengths, logits = make_inputs(case, dtype)
    weighting, keep_blank, cap = options
    leaves = {"h": h.requires_grad_(), "logits": logits.requires_grad_(weighting != "mean")}
    output = ctc_collapse(
        h, lengths, logits=logits, weighting=weighting, keep_blank=keep_blank, max_output_length=cap, backend=backend
    )
    cotangent = torch.randn(output.seqs.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    output.seqs.backward(cotangent)
    return output, {
        # Without any run no weight depends on the logits; None and zeros are then the same gradient.
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
        if leaf.requires_grad
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_equals_a_python_loop(case: str, backend: str) -> None:
    h, lengths, logits = make_inputs(case)
    for weighting, keep_blank, cap in OPTIONS:
        output = ctc_collapse(
            h,
            lengths,
            logits=logits,
            weighting=weighting,
            keep_blank=keep_blank,
            max_output_length=cap,
            backend=backend,
        )
        expected = loop(h, lengths, logits, weighting, keep_blank, cap)
        assert relative_error(output.seqs, expected.pop("seqs")) <= TOLERANCES[torch.float32]
        for name, values in expected.items():
            value = getattr(output, name)
            assert value.dtype == torch.int64
            assert value.tolist() == values, name


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("case", ["one run", "an empty row, ragged", "channels over two blocks", "all blank"])
def test_gradients_equal_the_reference(case: str, backend: str, dtype: torch.dtype) -> None:
    for options in OPTIONS:
        output, gradients = run(case, backend, options, dtype)
        reference, expected = run(case, "reference", options, dtype)
        assert output.seqs.dtype == dtype
        assert relative_error(output.seqs, reference.seqs) <= TOLERANCES[dtype]
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            assert gradient.dtype == dtype
            assert relative_error(gradient, expected[name]) <= TOLERANCES[dtype], (name, options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_of_the_padding_comes_through(backend: str) -> None:
    """The padding of every case is NaN: neither values nor gradients may be, and its gradients are exactly 0."""
    for options in OPTIONS:
        output, gradients = run("an empty row, ragged", backend, options)
        assert output.seqs.isfinite().all()
        for gradient in gradients.values():
            assert gradient.isfinite().all()
            assert (gradient[1] == 0).all() and (gradient[2, 5:] == 0).all()


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck(backend: str, options: tuple[Any, ...]) -> None:
    weighting, keep_blank, cap = options
    h, lengths, logits = make_inputs("the same label on both sides of a blank", torch.float64)
    h = h[:, :, :3].contiguous()

    def function(h: Tensor, logits: Tensor) -> Tensor:
        return ctc_collapse(
            h,
            lengths,
            logits=logits,
            weighting=weighting,
            keep_blank=keep_blank,
            max_output_length=cap,
            backend=backend,
        ).seqs

    torch.autograd.gradcheck(function, (h.requires_grad_(), logits.requires_grad_(weighting != "mean")))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_confident_frames_keep_an_exact_gradient(backend: str) -> None:
    """Where p rounds to 1, 1 - p must still be right: p (1 - p) is the gradient."""
    h = torch.tensor([[[1.0], [2.0]]])
    logits = torch.tensor([[[18.0, 0.0, 1.0], [17.0, 0.0, -1.0]]])
    gradients = {}
    for name in (backend, "reference"):
        leaf = logits.clone().requires_grad_()
        ctc_collapse(h, torch.tensor([2]), logits=leaf, weighting="prob", backend=name).seqs.sum().backward()
        gradients[name] = leaf.grad
    assert gradients["reference"] is not None and gradients["reference"].abs().max() < 1e-6
    assert relative_error(gradients[backend], gradients["reference"]) <= 3e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_equals_its_rows_alone(backend: str) -> None:
    h, lengths, logits = make_inputs("an empty row, ragged")
    together = ctc_collapse(h, lengths, logits=logits, weighting="prob", backend=backend)
    for b, length in enumerate(lengths.tolist()):
        if length > 0:
            cut = slice(b, b + 1), slice(0, length)
            alone = ctc_collapse(h[cut], lengths[b : b + 1], logits=logits[cut], weighting="prob", backend=backend)
            count = int(alone.lengths)
            assert torch.equal(together.seqs[b, :count], alone.seqs[0])
            assert torch.equal(together.starts[b, :count], alone.starts[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("vocabulary", [7, 2000, 5000], ids=["short", "several blocks", "several tiles"])
def test_ties_take_the_lowest_index(vocabulary: int, backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 2, (1, 4, vocabulary), generator=generator).float()
    # The maximum twice in distant blocks, and a row of nothing but ties.
    logits[0, 0, 5], logits[0, 0, vocabulary - 1] = 2.0, 2.0
    logits[0, 1] = -1.0
    output = ctc_collapse(torch.ones(1, 4, 1), torch.tensor([4]), logits=logits, backend=backend)
    expected = [row.index(max(row)) for row in logits[0].tolist()]
    assert output.frame_labels[0].tolist() == expected
    assert expected[:2] == [5, 0]


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("width", [2100, 600, 7], ids=["no cap", "a cap", "a cap of few"])
@pytest.mark.parametrize("keep_blank", [True, False])
def test_plan_of_a_long_row(keep_blank: bool, width: int, backend: str) -> None:
    """More frames than one block of the kernel, with runs across its border."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 2100), generator=generator)
    labels[0, 2000:2090] = 1
    # The padding may go on with the label of the last frame, even if that is what marks padding elsewhere.
    labels[1, 2040:] = -1
    lengths = torch.tensor([2100, 2050])
    plan = ops.plan(labels, lengths, 0, keep_blank, width, backend)
    slots, run_labels, starts, ends, counts, merged = (part.tolist() for part in plan)
    for b, length in enumerate(lengths.tolist()):
        runs = [(label, len(list(members))) for label, members in groupby(labels[b, :length].tolist())]
        frame, number, expected = 0, 0, [-1] * 2100
        total = sum(keep_blank or label != 0 for label, _ in runs)
        spans: dict[int, tuple[int, int, int]] = {}
        for label, size in runs:
            if keep_blank or label != 0:
                slot = number * width // total if total > width else number
                expected[frame : frame + size] = [slot] * size
                first = spans.get(slot, (label, frame, 0))
                spans[slot] = (first[0], first[1], frame + size)
                number += 1
            frame += size
        assert slots[b] == expected
        rows = zip(run_labels[b], starts[b], ends[b], strict=True)
        assert list(rows) == [spans.get(slot, (-1, 0, 0)) for slot in range(width)]
        assert (counts[b], merged[b]) == (len(spans), total - len(spans))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_any_strides(backend: str) -> None:
    h, lengths, logits = make_inputs("an empty row, ragged")
    results = []
    for strange in (False, True):
        a, b = h.clone(), logits.clone()
        if strange:
            a = torch.stack([a, a], dim=3)[..., 0].transpose(0, 1).contiguous().transpose(0, 1)
            b = b.transpose(1, 2).contiguous().transpose(1, 2)
            assert not a.is_contiguous() and not b.is_contiguous()
        a.requires_grad_(), b.requires_grad_()
        seqs = ctc_collapse(a, lengths, logits=b, weighting="softmax", backend=backend).seqs
        # The gradient of a sum is one number seen through strides of 0.
        seqs.sum().backward()
        results.append((seqs, a.grad, b.grad))
    for plain, strided in zip(*results, strict=True):
        assert torch.equal(plain, strided)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_gradient_only_where_it_is_asked_for(backend: str) -> None:
    h, lengths, logits = make_inputs("the same label on both sides of a blank")

    def gradients(for_h: bool, for_logits: bool, **options: Any) -> tuple[Tensor | None, Tensor | None]:
        a, b = h.clone().requires_grad_(for_h), logits.clone().requires_grad_(for_logits)
        ctc_collapse(a, lengths, logits=b, backend=backend, **options).seqs.pow(2).sum().backward()
        return a.grad, b.grad

    both = gradients(True, True, weighting="prob")
    assert both[0] is not None and both[1] is not None
    only_logits = gradients(False, True, weighting="prob")
    assert only_logits[0] is None and torch.equal(only_logits[1], both[1])
    detached = gradients(True, True, weighting="prob", detach=True)
    assert detached[1] is None and torch.equal(detached[0], both[0])
    assert gradients(True, True, weighting="mean")[1] is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_instead_of_logits(backend: str) -> None:
    h, lengths, logits = make_inputs("an empty row, ragged")
    labels = logits.nan_to_num(9.0).argmax(dim=2).int()
    for a, b in zip(
        ctc_collapse(h, lengths, logits=logits, backend=backend),
        ctc_collapse(h, lengths.int(), labels=labels, backend=backend),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_cap_merges_evenly_and_counts(backend: str) -> None:
    h = torch.arange(7.0).view(1, 7, 1)
    labels = torch.tensor([[1, 2, 3, 0, 0, 5, 6]])
    output = ctc_collapse(h, torch.tensor([7]), labels=labels, max_output_length=3, backend=backend)
    # Six runs in three slots: two and two; the run of two blanks weighs twice.
    assert output.seqs.flatten().tolist() == [0.5, 3.0, 5.5]
    assert (output.merged.tolist(), output.lengths.tolist()) == ([3], [3])
    assert (output.labels.tolist(), output.starts.tolist(), output.ends.tolist()) == (
        [[1, 3, 5]],
        [[0, 2, 5]],
        [[2, 5, 7]],
    )
    wide = ctc_collapse(h, torch.tensor([7]), labels=labels, max_output_length=100, backend=backend)
    assert wide.seqs.shape == (1, 7, 1) and wide.merged.tolist() == [0]


@pytest.mark.parametrize("backend", ["torch", "triton"])
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
        results.append([*output, a.grad, *([b.grad] if weighting == "prob" else [])])
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
        torch.library.opcheck(operator, arguments, test_utils=checks)


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
        ({"backend": "cuda"}, "`backend` must be one of auto, reference, torch, triton, but is 'cuda'."),
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


def test_imports_neither_fairseq2_nor_transformers() -> None:
    code = (
        "import sys, speechllm_kernels.ctc_collapse, speechllm_kernels.ctc_collapse.triton_impl\n"
        "print([name for name in ('fairseq2', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
