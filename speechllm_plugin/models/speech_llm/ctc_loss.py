"""Losses of a CTC head, for logits that exist and for those that are too many to exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechllm_plugin.llms.cross_entropy import cross_entropy
from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.tensors.logits import LinearLogits, Logits, whole

_NEVER = -1e30
"""Logit of a class that a row does not have. It is finite, since torch's gradient is NaN for a probability of 0."""


def ctc_loss(logits: Logits, lengths: Tensor, labels: Sequence[Sequence[int]]) -> Tensor:
    """
    :param logits: logits of the frames, `[B, T, V]`; label 0 is the blank.
    :param lengths: `[B]`, on the host.
    :param labels: labels of each row, below V.
    :returns: the loss of each row in nats, `[B]`; 0 where there are too few frames.
    """
    if isinstance(logits, LinearLogits) and logits.are_many:
        classes, labels = _own_classes(logits, labels)
        # The classes are few, so float64 costs nothing; path sums of 10,000 nats are exact in it.
        return _ctc_loss(classes.double(), labels, lengths).float()
    return _ctc_loss(whole(logits).float(), labels, lengths)


def _ctc_loss(logits: Tensor, labels: Sequence[Sequence[int]], lengths: Tensor) -> Tensor:
    loss: Any = F.ctc_loss  # typed for tensors alone, which PyTorch would read back from a device
    losses: Tensor = loss(
        logits.log_softmax(dim=-1).transpose(0, 1),  # (B, T, V) -> (T, B, V)
        on_device([label for row in labels for label in row], logits.device, torch.long),
        tuple(lengths.tolist()),
        tuple(map(len, labels)),
        reduction="none",
        zero_infinity=True,
    )
    return losses


def label_loss(logits: Logits, labels: Tensor, *, ignored: int) -> Tensor:
    """
    :param logits: `[B, U, V]`.
    :param labels: `[B, U]`, on the host; `ignored` where a vector has no label.
    :returns: the sum of the cross entropies of all vectors with their labels, in nats.
    """
    vectors = logits if isinstance(logits, Tensor) else logits.inputs
    places = (labels != ignored).flatten().nonzero().squeeze(1)
    wanted = on_device(labels.flatten()[places], vectors.device)
    chosen = vectors.flatten(0, 1).index_select(0, on_device(places, vectors.device))
    if isinstance(logits, Tensor):
        return F.cross_entropy(chosen.float(), wanted, reduction="sum")
    weight, bias = logits.weight, logits.bias
    with torch.autocast(vectors.device.type, enabled=False):
        return cross_entropy(chosen, wanted, lambda rows: F.linear(rows, weight, bias), len(weight)).sum()


def _own_classes(logits: LinearLogits, labels: Sequence[Sequence[int]]) -> tuple[Tensor, list[list[int]]]:
    """The same loss over a small vocabulary for each row: the blank, the labels of the row, and one class whose
    probability is the sum of all others'.

    :returns: logits `[B, T, classes]`, and the labels as numbers of these classes.
    """
    known = [[0, *sorted(set(row))] for row in labels]
    size = max(map(len, known))
    # A row with fewer labels repeats its blank, in classes that nothing reads.
    device = logits.inputs.device
    ids = on_device([row + [0] * (size - len(row)) for row in known], device)
    spare = on_device([[i >= len(row) for i in range(size)] for row in known], device)
    own = logits.of(ids).masked_fill(spare.unsqueeze(1), _NEVER)
    others = logits.log_sum_of_others(ids).unsqueeze(2)
    renamed = [[classes.index(label) for label in row] for classes, row in zip(known, labels, strict=True)]
    return torch.cat([own, others], dim=2), renamed
