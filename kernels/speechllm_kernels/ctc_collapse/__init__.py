"""CTC collapse: runs of frames with the same CTC label become one vector.

Source: Gaido et al., "CTC-based Compression for Direct Speech Translation" (EACL 2021, arXiv:2102.01578).
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor

from speechllm_kernels._common import (
    Backend,
    check_cap,
    check_lengths,
    check_like,
    check_sequences,
    resolve_backend,
    valid_frames,
)
from speechllm_kernels.ctc_collapse import dense, ops, reference
from speechllm_kernels.ctc_collapse.output import CtcCollapseOutput
from speechllm_kernels.ctc_collapse.steps import Plan

Weighting = Literal["mean", "prob", "softmax"]

WEIGHTINGS: Final = ("mean", "prob", "softmax")


def ctc_collapse(
    h: Tensor,
    lengths: Tensor,
    *,
    logits: Tensor | None = None,
    labels: Tensor | None = None,
    blank: int = 0,
    keep_blank: bool = True,
    weighting: Weighting = "mean",
    detach: bool = False,
    max_output_length: int | None = None,
    validate: bool = False,
    backend: Backend = "auto",
) -> CtcCollapseOutput:
    """
    Replaces each run of consecutive frames with the same label by one vector, a weighted mean of the frames of `h`.

    The label of a frame is the argmax of its logits; ties take the lowest index. Padded frames form no run and are
    never used: whatever they hold, NaN included, reaches neither outputs nor gradients. A row without runs (length
    0, or only blanks with `keep_blank=False`) gives length 0; what an empty row stands for is the caller's decision.

    The gradient flows to `h` and, with the weightings `prob` and `softmax`, through the weights to `logits`. Results
    and gradients are deterministic and accumulate in float32 (float64 for float64). With `max_output_length` there
    is no host sync, and `torch.compile(fullgraph=True)` and CUDA graphs take the function; without it there is one,
    to learn U.

    :param h: Features [B, T, C]: float32, bfloat16, float16 (or float64, not with Triton), any strides.
    :param lengths: Frames of each row [B], int64 or int32, between 0 and T. Beyond T is an error on a CPU and with
        `validate`; elsewhere it counts as T.
    :param logits: CTC logits [B, T, V] of a floating-point type, any strides; NaN is not supported.
    :param labels: Labels of the frames [B, T], integers, instead of `logits`.
    :param blank: Label of the blank.
    :param keep_blank: Whether runs of blanks give vectors too, as in the paper, or are dropped. A dropped run still
        parts the runs around it.
    :param weighting: Weights of the frames of a run, before they are normalised to the sum 1. `mean`: equal. `prob`:
        the probability p of the label. `softmax`: exp(p), the softmax of p over the run.
    :param detach: No gradient through the weights to `logits`, as in the paper's code. `h` gets its gradient all the
        same.
    :param max_output_length: Most vectors of a row; U is then the smaller of it and T. In a row of n > cap runs, run
        r goes into vector floor(r x cap / n): neighbours merge evenly over the row, weighted as one run, and `merged`
        counts the runs lost.
    :param validate: Also checks what needs a host sync: `lengths`, and that no logits outside of the padding are NaN.
    :param backend: `auto` (Triton on CUDA, torch otherwise, `dense` under `torch.export`), `reference`, `torch`,
        `triton` or `dense`.

    :raises ValueError: An argument of wrong shape, dtype, device or value; both or neither of `logits` and `labels`;
        `prob` or `softmax` without logits; a backend that cannot run here.
    """
    backend_name = resolve_backend(backend, h)
    _check(h, lengths, logits, labels, blank, weighting, validate, backend_name)
    check_cap("max_output_length", max_output_length)

    if backend_name in ("reference", "dense"):
        implementation = reference if backend_name == "reference" else dense
        return implementation.collapse(
            h,
            lengths,
            logits=logits,
            labels=labels,
            blank=blank,
            keep_blank=keep_blank,
            weighting=weighting,
            detach=detach,
            max_output_length=max_output_length,
        )

    # The kernels step through lengths one by one.
    lengths = lengths.contiguous()
    frames = h.shape[1]
    scores: Tensor | None = None
    if logits is not None:
        weighted = weighting != "mean"
        source = logits if weighted and not detach else logits.detach()
        frame_labels, probability, _, _ = ops.label_frames(source, lengths, weighted, backend_name)
        if weighted:
            scores = probability.exp() if weighting == "softmax" else probability
    else:
        assert labels is not None
        frame_labels = labels.long().masked_fill(~valid_frames(lengths, frames), -1)

    width = frames if max_output_length is None else min(max_output_length, frames)
    plan = Plan(*ops.plan(frame_labels, lengths, blank, keep_blank, width, backend_name))
    host_lengths = None
    if max_output_length is None:
        # The one host sync.
        host_lengths = plan.counts.cpu()
        width = int(host_lengths.max())
    seqs, _ = ops.pool(h, scores, plan.slots, plan.starts, plan.ends, width, not keep_blank, backend_name)
    return CtcCollapseOutput(
        seqs=seqs,
        lengths=plan.counts,
        labels=plan.labels[:, :width],
        starts=plan.starts[:, :width],
        ends=plan.ends[:, :width],
        merged=plan.merged,
        frame_labels=frame_labels,
        host_lengths=host_lengths,
    )


def _check(
    h: Tensor,
    lengths: Tensor,
    logits: Tensor | None,
    labels: Tensor | None,
    blank: int,
    weighting: str,
    validate: bool,
    backend: str,
) -> None:
    check_sequences("h", h)
    check_lengths("lengths", lengths, "h", h, validate=validate)
    batch, frames, _ = h.shape
    if weighting not in WEIGHTINGS:
        raise ValueError(f"`weighting` must be one of {', '.join(WEIGHTINGS)}, but is {weighting!r}.")
    if (logits is None) == (labels is None):
        found = "neither" if logits is None else "both"
        raise ValueError(f"Exactly one of `logits` and `labels` must be given, but {found} are.")
    if labels is not None:
        check_like("labels", labels, (batch, frames), "h", h)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"`labels` must be integers, but are {str(labels.dtype).removeprefix('torch.')}.")
        if weighting != "mean":
            raise ValueError(f"`weighting` is {weighting!r}, which needs `logits`, but only `labels` are given.")
    if logits is not None:
        check_sequences("logits", logits)
        check_like("logits", logits, (batch, frames, logits.shape[2]), "h", h)
        if not 0 <= blank < logits.shape[2]:
            raise ValueError(
                f"`blank` must be between 0 and {logits.shape[2] - 1} (V - 1 of `logits`), but is {blank}."
            )
        if backend == "triton" and logits.dtype == torch.float64:
            raise ValueError("`backend` is 'triton', which takes no float64, but `logits` is float64.")
        if validate and not torch.compiler.is_compiling():
            wrong = (logits.isnan().any(dim=2) & valid_frames(lengths, frames)).nonzero()
            if wrong.numel() > 0:
                b, t = wrong[0].tolist()
                raise ValueError(f"`logits` must not be NaN, but are in row {b}, frame {t}.")


__all__ = ["WEIGHTINGS", "CtcCollapseOutput", "Weighting", "ctc_collapse"]
