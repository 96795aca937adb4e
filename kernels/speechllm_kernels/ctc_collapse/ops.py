"""The operators that `torch.compile`, autograd and CUDA graphs see: frames to labels, labels to a plan of slots,
frames to slots, and the gradients of the first and the last. The plan has none.

Each takes its backend by name (`torch` or `triton`).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from speechllm_kernels._common import operator
from speechllm_kernels.ctc_collapse import torch_impl
from speechllm_kernels.ctc_collapse.steps import FrameLabels, Plan, Pooled, PoolGradients


def _implementation(backend: str) -> ModuleType:
    if backend == "torch":
        return torch_impl
    # Not at the top: Triton is no requirement of the other backends.
    from speechllm_kernels.ctc_collapse import triton_impl

    return triton_impl


@operator("speechllm_kernels::ctc_label_frames")
def label_frames(
    logits: Tensor, lengths: Tensor, probabilities: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gives `FrameLabels`, of which `probability` alone is differentiable."""
    return tuple(_implementation(backend).label_frames(logits, lengths, probabilities))


@label_frames.register_fake
def _(logits: Tensor, lengths: Tensor, probabilities: bool, backend: str) -> FrameLabels:
    return FrameLabels.empty(logits, probabilities)


@operator("speechllm_kernels::ctc_label_frames_backward")
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
    """Gives the gradient of the logits [B, T, V] from that of the probability."""
    found = FrameLabels(labels, probability, rest, sums)
    return _implementation(backend).label_frames_backward(grad, logits, lengths, found)


@label_frames_backward.register_fake
def _(grad: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _save_labels(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, lengths, _, ctx.backend = inputs
    ctx.save_for_backward(logits, lengths, *output)


def _backward_labels(ctx: Any, _labels: Tensor, grad: Tensor, _rest: Tensor, _sums: Tensor) -> tuple[Any, ...]:
    return label_frames_backward(grad, *ctx.saved_tensors, ctx.backend), None, None, None


label_frames.register_autograd(_backward_labels, setup_context=_save_labels)


@operator("speechllm_kernels::ctc_plan")
def plan(
    frame_labels: Tensor, lengths: Tensor, blank: int, keep_blank: bool, width: int, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """
    Gives a `Plan`.

    :param width: most slots of a row: the cap, or T.
    """
    return tuple(_implementation(backend).plan(frame_labels, lengths, blank, keep_blank, width))


@plan.register_fake
def _(frame_labels: Tensor, lengths: Tensor, blank: int, keep_blank: bool, width: int, backend: str) -> Plan:
    return Plan.empty(frame_labels, width)


@operator("speechllm_kernels::ctc_pool")
def pool(
    h: Tensor, scores: Tensor | None, slots: Tensor, starts: Tensor, ends: Tensor, width: int, holes: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """
    Gives `Pooled`: the means of the slots' frames, weighted by `scores` [B, T], and what they were divided by.

    :param starts, ends: spans of the slots, as in `slots`; kernels that loop over spans take them and `holes`.
    :param width: U, at most that of the plan.
    :param holes: whether a span may hold frames of no slot (dropped blanks).
    """
    return tuple(_implementation(backend).pool(h, scores, slots, starts, ends, width, holes))


@pool.register_fake
def _(
    h: Tensor, scores: Tensor | None, slots: Tensor, starts: Tensor, ends: Tensor, width: int, holes: bool, backend: str
) -> Pooled:
    return Pooled.empty(h, width)


@operator("speechllm_kernels::ctc_pool_backward")
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
    """Gives `PoolGradients`."""
    return tuple(_implementation(backend).pool_backward(grad, h, scores, slots, starts, ends, norms, for_h, for_scores))


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
) -> PoolGradients:
    return PoolGradients.empty(h, norms, for_h, for_scores)


def _save_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    h, scores, slots, starts, ends, _, _, ctx.backend = inputs
    ctx.save_for_backward(h, scores, slots, starts, ends, output[1])


def _backward_pool(ctx: Any, grad: Tensor, _norms: Tensor) -> tuple[Tensor | None, ...]:
    for_h, for_scores = ctx.needs_input_grad[:2]
    dh, dscores = pool_backward(grad, *ctx.saved_tensors, for_h, for_scores, ctx.backend)
    return (dh if for_h else None, dscores if for_scores else None, *[None] * 6)


pool.register_autograd(_backward_pool, setup_context=_save_pool)
