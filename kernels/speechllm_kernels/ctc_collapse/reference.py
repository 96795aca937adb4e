"""The obvious implementation: Python loops over rows and runs, in float64. All other backends are compared with it."""

from __future__ import annotations

from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from speechllm_kernels.ctc_collapse.output import CtcCollapseOutput


def collapse(
    h: Tensor,
    lengths: Tensor,
    *,
    logits: Tensor | None,
    labels: Tensor | None,
    blank: int,
    keep_blank: bool,
    weighting: str,
    detach: bool,
    max_output_length: int | None,
) -> CtcCollapseOutput:
    """See `speechllm_kernels.ctc_collapse.ctc_collapse`."""
    batch, frames, channels = h.shape
    # One `unbind` and one `split` for each row: the gradient of every slice would be a tensor of full size.
    features = h.unbind(0)
    row_logits = logits.unbind(0) if logits is not None else None
    frame_labels: list[Tensor] = []
    rows: list[list[_Run]] = []
    merged: list[int] = []
    for b, length in enumerate(lengths.tolist()):
        if row_logits is not None:
            chosen = row_logits[b][:length].argmax(dim=1)
        else:
            assert labels is not None
            chosen = labels[b, :length].long()
        frame_labels.append(pad(chosen, (0, frames - length), value=-1))
        scores = _scores(None if row_logits is None else row_logits[b], chosen, weighting, detach)
        weighted = scores.unsqueeze(1) * features[b][:length].double()
        runs = _find_runs(weighted, scores, chosen.tolist())
        runs = [run for run in runs if keep_blank or run.label != blank]
        rows.append(_merge(runs, max_output_length))
        merged.append(len(runs) - len(rows[b]))

    width = min(max_output_length, frames) if max_output_length is not None else max(map(len, rows))
    # Zeros that autograd sees, so that a batch without any run has gradients, too.
    empty = features[0][:0].double().sum(dim=0)
    vectors, integers = [], []
    for row in rows:
        unused = width - len(row)
        means = [run.frames.sum(dim=0) / run.scores.sum() for run in row]
        vectors += [*means, *[empty] * unused]
        integers += [*((run.label, run.start, run.end) for run in row), *[(-1, 0, 0)] * unused]
    seqs = torch.stack(vectors) if vectors else h[:, :0].double()
    spans = torch.tensor(integers, dtype=torch.int64, device=h.device).view(batch, width, 3)
    return CtcCollapseOutput(
        seqs=seqs.view(batch, width, channels).to(h.dtype),
        lengths=torch.tensor([len(row) for row in rows], device=h.device),
        labels=spans[:, :, 0],
        starts=spans[:, :, 1],
        ends=spans[:, :, 2],
        merged=torch.tensor(merged, device=h.device),
        frame_labels=torch.stack(frame_labels),
    )


class _Run(NamedTuple):
    label: int
    start: int
    end: int
    frames: Tensor
    """[n, C], float64: times the scores."""
    scores: Tensor
    """[n], float64: the weights before they are normalised."""


def _scores(logits: Tensor | None, labels: Tensor, weighting: str, detach: bool) -> Tensor:
    """The unnormalised weights of one row's frames."""
    if weighting == "mean" or logits is None:
        return torch.ones(labels.shape[0], dtype=torch.float64, device=labels.device)
    row = logits[: labels.shape[0]].double()
    probability = (row.detach() if detach else row).softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return probability.exp() if weighting == "softmax" else probability


def _find_runs(frames: Tensor, scores: Tensor, labels: list[int]) -> list[_Run]:
    sizes = [(label, len(list(members))) for label, members in groupby(labels)]
    starts = accumulate((size for _, size in sizes), initial=0)
    counts = [size for _, size in sizes]
    pieces = zip(sizes, starts, frames.split(counts), scores.split(counts), strict=False)
    return [_Run(label, start, start + size, piece, score) for (label, size), start, piece, score in pieces]


def _merge(runs: list[_Run], cap: int | None) -> list[_Run]:
    """Puts run r of n into slot floor(r x cap / n) where there are more runs than the cap."""
    if cap is None or len(runs) <= cap:
        return runs
    merged = []
    for _, group in groupby(enumerate(runs), key=lambda numbered: numbered[0] * cap // len(runs)):
        parts = [run for _, run in group]
        frames, scores = torch.cat([run.frames for run in parts]), torch.cat([run.scores for run in parts])
        merged.append(_Run(parts[0].label, parts[0].start, parts[-1].end, frames, scores))
    return merged
