"""The operators that `torch.compile` and autograd see: one plans, one sums, one is the gradient of the latter."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from speechllm_kernels._common import operator, valid_frames
from speechllm_kernels.cif import torch_impl
from speechllm_kernels.cif.token_plan import Plan, Rules


def _implementation(backend: str) -> ModuleType:
    if backend == "torch":
        return torch_impl
    # Not at the top: Triton is no requirement of the other backends.
    from speechllm_kernels.cif import triton_impl

    return triton_impl


@operator("speechllm_kernels::cif_plan")
def cif_plan(
    alpha: Tensor,
    lengths: Tensor,
    target_lengths: Tensor | None,
    slots: int,
    beta: float,
    scale_eps: float,
    tail_threshold: float,
    tail_strict: bool,
    tail_renorm: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """
    Gives a `Plan`, of which `alpha_sum` alone is differentiable.

    :param alpha: float32 or float64, here and below: `cif` widens half precision.
    """
    rules = Rules(beta, scale_eps, tail_threshold, tail_strict, tail_renorm, False)
    return tuple(_implementation(backend).plan(alpha, lengths, target_lengths, slots, rules))


@cif_plan.register_fake
def _(alpha: Tensor, lengths: Tensor, target_lengths: Tensor | None, slots: int, *_: Any) -> Plan:
    batch, frames = alpha.shape
    integers: dict[str, Any] = {"dtype": torch.int64, "device": alpha.device}
    doubles: dict[str, Any] = {"dtype": torch.float64, "device": alpha.device}
    return Plan(
        cum=torch.empty(batch, frames, **doubles),
        fire_frames=torch.empty(batch, slots, **integers),
        lengths=torch.empty(batch, **integers),
        overflow=torch.empty(batch, **integers),
        alpha_sum=torch.empty(batch, dtype=alpha.dtype, device=alpha.device),
        scale=torch.empty(batch, **doubles),
        tail_scale=torch.empty(batch, **doubles),
    )


def _setup_plan(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    alpha, lengths = inputs[:2]
    # Only the sum's gradient exists; zeros for the other outputs would cost a [B, T] fill.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(lengths)
    ctx.frames = alpha.shape[1]


def _backward_plan(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad_sum = grads[Plan._fields.index("alpha_sum")]
    grad_alpha = None
    if grad_sum is not None:
        (lengths,) = ctx.saved_tensors
        grad_alpha = torch.where(valid_frames(lengths, ctx.frames), grad_sum[:, None], 0)
    return (grad_alpha, *[None] * 9)


cif_plan.register_autograd(_backward_plan, setup_context=_setup_plan)


@operator("speechllm_kernels::cif_integrate")
def cif_integrate(
    h: Tensor,
    alpha: Tensor,
    lengths: Tensor,
    cum: Tensor,
    fire_frames: Tensor,
    given: Tensor,
    overflow: Tensor,
    alpha_sum: Tensor,
    scale: Tensor,
    tail_scale: Tensor,
    scaled: bool,
    beta: float,
    tail_renorm: bool,
    tail_renorm_grad: bool,
    backend: str,
) -> Tensor:
    """
    Sums the frames of each token: [B, U, C].

    :param alpha: only for its gradient; its values are in the plan.
    :param scaled: whether alpha was scaled to a target.
    """
    plan = Plan(cum, fire_frames, given, overflow, alpha_sum, scale, tail_scale)
    return _implementation(backend).forward(h, lengths, plan, beta)


@cif_integrate.register_fake
def _(h: Tensor, alpha: Tensor, lengths: Tensor, cum: Tensor, fire_frames: Tensor, *_: Any) -> Tensor:
    return h.new_empty(h.shape[0], fire_frames.shape[1], h.shape[2])


def _setup_integrate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    h, alpha, *tensors = inputs[:10]
    ctx.save_for_backward(h, *tensors)
    ctx.alpha_dtype = alpha.dtype
    ctx.options = inputs[10:]


def _backward_integrate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need_h, need_alpha = ctx.needs_input_grad[:2]
    grad_h, grad_alpha = cif_integrate_backward(
        grad, *ctx.saved_tensors, *ctx.options, ctx.alpha_dtype, need_h, need_alpha
    )
    return (grad_h if need_h else None, grad_alpha if need_alpha else None, *[None] * 13)


@operator("speechllm_kernels::cif_integrate_backward")
def cif_integrate_backward(
    grad: Tensor,
    h: Tensor,
    lengths: Tensor,
    cum: Tensor,
    fire_frames: Tensor,
    given: Tensor,
    overflow: Tensor,
    alpha_sum: Tensor,
    scale: Tensor,
    tail_scale: Tensor,
    scaled: bool,
    beta: float,
    tail_renorm: bool,
    tail_renorm_grad: bool,
    backend: str,
    alpha_dtype: torch.dtype,
    need_h: bool,
    need_alpha: bool,
) -> tuple[Tensor, Tensor]:
    """Gives the gradients of h [B, T, C] and alpha [B, T]; an empty tensor for one that is not needed."""
    plan = Plan(cum, fire_frames, given, overflow, alpha_sum, scale, tail_scale)
    rules = Rules(beta, 0.0, 0.0, False, tail_renorm, tail_renorm_grad)
    grad_h, grad_alpha = _implementation(backend).backward(
        grad,
        h,
        lengths,
        plan,
        rules,
        scaled=scaled,
        alpha_dtype=alpha_dtype,
        need_h=need_h,
        need_alpha=need_alpha,
    )
    return (
        h.new_empty(0) if grad_h is None else grad_h,
        h.new_empty(0, dtype=alpha_dtype) if grad_alpha is None else grad_alpha,
    )


@cif_integrate_backward.register_fake
def _(grad: Tensor, h: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    alpha_dtype, need_h, need_alpha = rest[-3:]
    return (
        h.new_empty(h.shape if need_h else (0,)),
        h.new_empty(h.shape[:2] if need_alpha else (0,), dtype=alpha_dtype),
    )


cif_integrate.register_autograd(_backward_integrate, setup_context=_setup_integrate)
