"""CTC collapse against a plain Python loop: values, spans and gradients of every backend."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

import pytest
import torch
from speechllm_kernels.ctc_collapse import ctc_collapse
from torch import Tensor

from tests.kernels.backends import BACKENDS, FAST
from tests.kernels.ctc_collapse_cases import CASES, DTYPES, OPTIONS, TOLERANCE, make_inputs, relative_error, run
from tests.kernels.rounding import assert_rounded_once


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


@pytest.mark.parametrize("backend", [*BACKENDS, "dense"])
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
        assert relative_error(output.seqs, expected.pop("seqs")) <= TOLERANCE
        for name, values in expected.items():
            value = getattr(output, name)
            assert value.dtype == torch.int64
            assert value.tolist() == values, name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("case", ["one run", "an empty row, ragged", "channels over two blocks", "all blank"])
def test_gradients_equal_the_reference(case: str, backend: str, dtype: torch.dtype) -> None:
    inputs = make_inputs(case, dtype)
    for options in OPTIONS:
        output, gradients = run(inputs, backend, options)
        reference, expected = run(inputs, "reference", options, wide=True)
        assert gradients.keys() == expected.keys()
        for name, value in {"seqs": output.seqs, **gradients}.items():
            exact = reference.seqs if name == "seqs" else expected[name]
            assert value.dtype == dtype
            if dtype == torch.float32:
                assert relative_error(value, exact) <= TOLERANCE, (name, options)
            else:
                assert_rounded_once(f"{name} with {options}", value, exact)


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


@pytest.mark.parametrize("backend", FAST)
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


@pytest.mark.parametrize("backend", [*BACKENDS, "dense"])
def test_nothing_of_the_padding_comes_through(backend: str) -> None:
    """The padding of every case is NaN: neither values nor gradients may be, and its gradients are exactly 0."""
    for options in OPTIONS:
        output, gradients = run(make_inputs("an empty row, ragged"), backend, options)
        assert output.seqs.isfinite().all()
        for gradient in gradients.values():
            assert gradient.isfinite().all()
            assert (gradient[1] == 0).all() and (gradient[2, 5:] == 0).all()


@pytest.mark.parametrize("backend", [*BACKENDS, "dense"])
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


@pytest.mark.parametrize("backend", FAST)
def test_any_strides(backend: str) -> None:
    h, lengths, logits = make_inputs("an empty row, ragged")
    results = []
    for strange in (False, True):
        a, b, steps = h.clone(), logits.clone(), lengths
        if strange:
            steps = torch.stack([lengths, lengths + 1], dim=1)[:, 0]
            a = torch.stack([a, a], dim=3)[..., 0].transpose(0, 1).contiguous().transpose(0, 1)
            b = b.transpose(1, 2).contiguous().transpose(1, 2)
            assert not a.is_contiguous() and not b.is_contiguous()
        a.requires_grad_(), b.requires_grad_()
        seqs = ctc_collapse(a, steps, logits=b, weighting="softmax", backend=backend).seqs
        # The gradient of a sum is one number seen through strides of 0.
        seqs.sum().backward()
        results.append((seqs, a.grad, b.grad))
    for plain, strided in zip(*results, strict=True):
        assert torch.equal(plain, strided)


@pytest.mark.parametrize("backend", FAST)
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
