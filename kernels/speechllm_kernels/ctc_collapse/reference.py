"""The obvious implementation: Python loops over rows and runs, in float64. Every other one is held against it."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

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
    frame_labels = torch.full((batch, frames), -1, dtype=torch.int64, device=h.device)
    rows: list[list[tuple[Tensor, int, int, int]]] = []
    merged: list[int] = []
    for b, length in enumerate(lengths.tolist()):
        if logits is not None:
            frame_labels[b, :length] = logits[b, :length].argmax(dim=-1)
        elif labels is not None:
            frame_labels[b, :length] = labels[b, :length]
        runs = [
            (label, list(members))
            for label, members in groupby(range(length), key=frame_labels[b].tolist().__getitem__)
            if keep_blank or label != blank
        ]
        slots = _merge(runs, max_output_length)
        merged.append(len(runs) - len(slots))
        rows.append([])
        for label, members in slots:
            weights = _weights(logits, b, members, frame_labels, weighting, detach).to(h.device)
            vector = (weights.unsqueeze(1) * h[b, members].double()).sum(dim=0) / weights.sum()
            rows[b].append((vector, label, members[0], members[-1] + 1))

    width = min(max_output_length, frames) if max_output_length is not None else max(map(len, rows))
    nothing = (torch.zeros(channels, dtype=torch.float64, device=h.device), -1, 0, 0)
    padded = [row + [nothing] * (width - len(row)) for row in rows]
    seqs = torch.stack([torch.stack([slot[0] for slot in row]) for row in padded]) if width else h[:, :0].double()
    integers = torch.tensor([[slot[1:] for slot in row] for row in padded], dtype=torch.int64, device=h.device)
    integers = integers.view(batch, width, 3)
    return CtcCollapseOutput(
        seqs=seqs.to(h.dtype),
        lengths=torch.tensor([len(row) for row in rows], dtype=torch.int64, device=h.device),
        labels=integers[:, :, 0],
        starts=integers[:, :, 1],
        ends=integers[:, :, 2],
        merged=torch.tensor(merged, dtype=torch.int64, device=h.device),
        frame_labels=frame_labels,
    )


def _merge(runs: list[tuple[int, list[int]]], cap: int | None) -> list[tuple[int, list[int]]]:
    """Puts run r of n into slot floor(r x cap / n) where there are more runs than the cap."""
    if cap is None or len(runs) <= cap:
        return runs
    slots: list[tuple[int, list[int]]] = []
    for _, group in groupby(range(len(runs)), key=lambda r: r * cap // len(runs)):
        members = list(group)
        slots.append((runs[members[0]][0], [frame for r in members for frame in runs[r][1]]))
    return slots


def _weights(
    logits: Tensor | None, b: int, members: list[int], frame_labels: Tensor, weighting: str, detach: bool
) -> Tensor:
    """Unnormalised weights of the frames of one slot."""
    if weighting == "mean" or logits is None:
        return torch.ones(len(members), dtype=torch.float64)
    row = logits[b, members].double()
    if detach:
        row = row.detach()
    probability = row.softmax(dim=-1).gather(1, frame_labels[b, members].unsqueeze(1)).squeeze(1)
    return probability.exp() if weighting == "softmax" else probability
