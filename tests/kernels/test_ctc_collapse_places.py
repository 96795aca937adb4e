"""CTC collapse: labels of frames, the runs that they make, and the slots that runs share under a cap."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch
from speechllm_kernels.ctc_collapse import ctc_collapse, ops

from tests.kernels.backends import BACKENDS, FAST
from tests.kernels.ctc_collapse_cases import make_inputs


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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_smallest_numbers_of_half_precision_decide_a_label(dtype: torch.dtype, backend: str) -> None:
    kind = torch.finfo(dtype)
    smallest = kind.smallest_normal * kind.eps
    logits = torch.tensor([[[1, 4, 2], [3, 2, 3]]], dtype=torch.float64).mul(smallest).to(dtype)
    output = ctc_collapse(torch.ones(1, 2, 1), torch.tensor([2]), logits=logits, backend=backend)
    assert output.frame_labels.tolist() == [[1, 0]]


@pytest.mark.parametrize("backend", FAST)
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_instead_of_logits(backend: str) -> None:
    h, lengths, logits = make_inputs("an empty row, ragged")
    labels = logits.nan_to_num(9.0).argmax(dim=2).int()
    for a, b in zip(
        ctc_collapse(h, lengths, logits=logits, backend=backend),
        ctc_collapse(h, lengths.int(), labels=labels, backend=backend),
        strict=True,
    ):
        assert (a is None and b is None) or torch.equal(a, b)


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
