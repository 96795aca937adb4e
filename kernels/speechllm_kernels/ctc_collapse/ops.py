"""The custom operators: what `torch.compile`, autograd and CUDA graphs see.

Three steps: frames to labels (and their probabilities), labels to a plan of slots, frames to slots. The plan has no
gradient. Each operator takes the backend by name (`torch` or `triton`).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from speechllm_kernels.ctc_collapse import torch_impl


def _implementation(backend: str) -> ModuleType:
    if backend == "torch":
        return torch_impl
    # Triton need not be installed where it is not used.
    from speechllm_kernels.ctc_collapse import triton_impl

    return triton_impl


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


@custom_op(
    "speechllm::ctc_label_frames",
    mutates_args=(),
    schema="(Tensor logits, Tensor lengths, bool probabilities, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
)
def label_frames(
    logits: Tensor, lengths: Tensor, probabilities: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _implementation(backend).label_frames(
        logits, lengths, probabilities
    )
    return result


@label_frames.register_fake
def _(logits: Tensor, lengths: Tensor, probabilities: bool, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = logits.shape[:2]
    probability, rest, sums = (
        logits.new_empty(shape if probabilities else 0, dtype=_accumulator(logits)) for _ in range(3)
    )
    return logits.new_empty(shape, dtype=torch.int64), probability, rest, sums


@custom_op(
    "speechllm::ctc_label_frames_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor logits, Tensor lengths, Tensor labels, Tensor probability, Tensor rest, Tensor sums,"
    " str backend) -> Tensor",
)
def label_frames_backward(
    grad: Tensor,
    logits: Tensor,
    lengths: Tensor,
    labels: Tensor,
    probability: Tensor,
    rest: Tensor,
    sums: Tensor,
    backend: str,
) -> Tensor:
    result: Tensor = _implementation(backend).label_frames_backward(
        grad, logits, lengths, labels, probability, rest, sums
    )
    return result


@label_frames_backward.register_fake
def _(
    grad: Tensor,
    logits: Tensor,
    lengths: Tensor,
    labels: Tensor,
    probability: Tensor,
    rest: Tensor,
    sums: Tensor,
    backend: str,
) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _save_labels(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, lengths, _, ctx.backend = inputs
    ctx.save_for_backward(logits, lengths, *output)


def _backward_labels(ctx: Any, _labels: Tensor, grad: Tensor, _rest: Tensor, _sums: Tensor) -> tuple[Any, ...]:
    """Only the probability is differentiated; `rest` and `sums` are for the backward itself."""
    return label_frames_backward(grad, *ctx.saved_tensors, ctx.backend), None, None, None


label_frames.register_autograd(_backward_labels, setup_context=_save_labels)


@custom_op(
    "speechllm::ctc_plan",
    mutates_args=(),
    schema="(Tensor frame_labels, Tensor lengths, int blank, bool keep_blank, int width, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def plan(
    frame_labels: Tensor, lengths: Tensor, blank: int, keep_blank: bool, width: int, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor] = _implementation(backend).plan(
        frame_labels, lengths, blank, keep_blank, width
    )
    return result


@plan.register_fake
def _(
    frame_labels: Tensor, lengths: Tensor, blank: int, keep_blank: bool, width: int, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, frames = frame_labels.shape
    slots = frame_labels.new_empty((batch, frames), dtype=torch.int32)
    labels, starts, ends = (frame_labels.new_empty((batch, width)) for _ in range(3))
    return slots, labels, starts, ends, frame_labels.new_empty(batch), frame_labels.new_empty(batch)


@custom_op(
    "speechllm::ctc_pool",
    mutates_args=(),
    schema="(Tensor h, Tensor? scores, Tensor slots, Tensor starts, Tensor ends, SymInt width, bool holes, str"
    " backend) -> (Tensor, Tensor)",
)
def pool(
    h: Tensor, scores: Tensor | None, slots: Tensor, starts: Tensor, ends: Tensor, width: int, holes: bool, backend: str
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _implementation(backend).pool(h, scores, slots, starts, ends, width, holes)
    return result


@pool.register_fake
def _(
    h: Tensor, scores: Tensor | None, slots: Tensor, starts: Tensor, ends: Tensor, width: int, holes: bool, backend: str
) -> tuple[Tensor, Tensor]:
    norms = h.new_empty((h.shape[0], width), dtype=_accumulator(h))
    return h.new_empty((h.shape[0], width, h.shape[2])), norms


@custom_op(
    "speechllm::ctc_pool_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor h, Tensor? scores, Tensor slots, Tensor starts, Tensor ends, Tensor norms, bool for_h,"
    " bool for_scores, str backend) -> (Tensor, Tensor)",
)
def pool_backward(
    grad: Tensor,
    h: Tensor,
    scores: Tensor | None,
    slots: Tensor,
    starts: Tensor,
    ends: Tensor,
    norms: Tensor,
    for_h: bool,
    for_scores: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _implementation(backend).pool_backward(
        grad, h, scores, slots, starts, ends, norms, for_h, for_scores
    )
    return result


@pool_backward.register_fake
def _(
    grad: Tensor,
    h: Tensor,
    scores: Tensor | None,
    slots: Tensor,
    starts: Tensor,
    ends: Tensor,
    norms: Tensor,
    for_h: bool,
    for_scores: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    dh = torch.empty(h.shape if for_h else 0, dtype=h.dtype, device=h.device)
    return dh, norms.new_empty(h.shape[:2] if for_scores else 0)


def _save_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    h, scores, slots, starts, ends, _, _, ctx.backend = inputs
    ctx.save_for_backward(h, scores, slots, starts, ends, output[1])


def _backward_pool(ctx: Any, grad: Tensor, _norms: Tensor) -> tuple[Tensor | None, ...]:
    for_h, for_scores = ctx.needs_input_grad[:2]
    dh, dscores = pool_backward(grad, *ctx.saved_tensors, for_h, for_scores, ctx.backend)
    return dh if for_h else None, dscores if for_scores else None, None, None, None, None, None, None


pool.register_autograd(_backward_pool, setup_context=_save_pool)
