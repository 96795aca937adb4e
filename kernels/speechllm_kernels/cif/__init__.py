"""Continuous integrate-and-fire (CIF, https://arxiv.org/abs/1905.11235): sums encoder frames into tokens.

The README beside this file has the mathematics and the options that reproduce other implementations.
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from speechllm_kernels._common import (
    Backend,
    accumulable,
    check_cap,
    check_lengths,
    check_like,
    check_sequences,
    longest,
    resolve_backend,
)
from speechllm_kernels.cif import ops, reference
from speechllm_kernels.cif.token_plan import Plan, Rules

__all__ = ["CifOutput", "cif"]

_CHOICES: Final = {
    "tail": ("fire", "drop"),
    "tail_rescale": ("none", "renorm", "renorm_detach"),
    "length_mode": ("floor", "round"),
}


class CifOutput(NamedTuple):
    """B rows of U slots."""

    seqs: Tensor
    """[B, U, C] in the dtype of h: the tokens; exactly 0 in unused slots. Differentiable in h and alpha."""

    lengths: Tensor
    """[B] int64: tokens in each row, at most U."""

    alpha_sum: Tensor
    """[B] float32 (float64 for a float64 alpha): sum of the given, unscaled alpha over the valid frames; what a
    quantity loss compares with beta times the target. Differentiable in alpha."""

    fire_frames: Tensor
    """[B, U] int64: frame at which each token was complete (its timestamp); the row's last valid frame for a tail;
    -1 in unused slots."""

    overflow: Tensor
    """[B] int64: tokens that `max_output_length` left no room for; they are missing from `seqs`."""


def cif(
    h: Tensor,
    alpha: Tensor,
    lengths: Tensor,
    *,
    target_lengths: Tensor | None = None,
    beta: float = 1.0,
    tail: Literal["fire", "drop"] = "fire",
    tail_threshold: float = 0.5,
    tail_strict: bool = False,
    tail_rescale: Literal["none", "renorm", "renorm_detach"] = "none",
    scale_eps: float = 0.0,
    length_mode: Literal["floor", "round"] = "floor",
    max_output_length: int | None = None,
    validate: bool = False,
    backend: Backend = "auto",
) -> CifOutput:
    """
    Integrates frames into tokens: each frame adds its alpha to the current token, which is complete at beta; the rest
    of the frame's alpha goes to the next token, and to further ones where it suffices.

    With `target_lengths` (training) alpha is scaled, row by row, so that it sums to beta times the target; each row
    gives exactly its target of tokens, the last of which absorbs rounding. A row whose alpha is all 0 gives zeros.
    Without (inference) a row may end in an incomplete token, the tail; the `tail` options say what becomes of it.

    Prefix sums are taken in float64 and vectors summed in float32 whatever the dtype; results are deterministic.
    Padded frames are never used: their content cannot reach an output or a gradient, NaN included. With
    `max_output_length` nothing is read back from the device and `torch.compile(fullgraph=True)` applies; without it,
    the largest output length is read, once.

    :param h: [B, T, C] float32, bfloat16, float16 or float64, of any strides. Triton has no float64.
    :param alpha: [B, T] weights >= 0, of any of these dtypes. A negative or non-finite one counts as 0 in `seqs` and
        as it is in `alpha_sum`.
    :param lengths: [B] int64 or int32: valid frames of each row, from 0 to T.
    :param target_lengths: [B] int64 or int32 >= 0: tokens wanted in each row.
    :param beta: the firing threshold.
    :param tail: whether a tail can become a token ("fire") or never does ("drop"). Inference only, as are the other
        tail options and `length_mode`.
    :param tail_threshold: the share of beta from which on a tail becomes a token.
    :param tail_strict: whether a tail must exceed that share.
    :param tail_rescale: "renorm" multiplies a tail token so that its weights sum to beta; "renorm_detach" does so
        without a gradient through the factor.
    :param scale_eps: scales to `beta * target + scale_eps` instead; what is beyond the last threshold is dropped.
    :param length_mode: "floor" applies the tail rule above; "round" gives `alpha_sum / beta` rounded half up, which
        is to fire a tail of half a beta or more.
    :param max_output_length: U, the static number of slots. Rows that make more tokens lose the rest; `overflow`
        counts them. Default: as many as the longest row needs.
    :param validate: checks the values of alpha and all lengths, at the cost of a host sync.
    :param backend: "triton" (CUDA), "torch" (fast on a CPU), "reference" (float64, dense, slow), or "auto". "dense",
        which "auto" is under `torch.export`, is the reference with room for as many tokens as there are frames, unless
        `max_output_length` says otherwise.
    :raises ValueError: on wrong shapes, dtypes, devices, options, a backend that cannot run here; on wrong values in
        `lengths` and `target_lengths` if they are on a CPU, and with `validate` on any device and in `alpha`.
    """
    rules = _check_options(beta, tail, tail_threshold, tail_strict, tail_rescale, scale_eps, length_mode)
    _check_tensors(h, alpha, lengths, target_lengths, validate=validate)
    check_cap("max_output_length", max_output_length)
    chosen = resolve_backend(backend, h)
    if chosen == "triton" and alpha.dtype == torch.float64:
        raise ValueError("`alpha` must be float32, bfloat16 or float16 for the backend triton, but is float64.")
    # Widened here, so that alpha's gradients through `seqs` and `alpha_sum` are summed before they are rounded.
    alpha = accumulable(alpha)

    if chosen in ("reference", "dense"):
        slots = max_output_length
        if slots is None and chosen == "dense":
            slots = h.shape[1]
        elif slots is None:
            slots = _longest(reference.plan(alpha.detach(), lengths, target_lengths, 0, rules))
        plan = reference.plan(alpha, lengths, target_lengths, slots, rules)
        seqs = reference.integrate(h, lengths, plan, target_lengths, rules)
        if max_output_length is None and chosen == "dense":
            slots = longest(plan.lengths, slots)
        return CifOutput(
            seqs[:, :slots], plan.lengths, plan.alpha_sum, plan.fire_frames[:, :slots], plan.overflow
        )

    options = (rules.beta, rules.scale_eps, rules.tail_threshold, rules.tail_strict, rules.tail_renorm, chosen)
    slots = max_output_length
    if slots is None:
        if target_lengths is not None:
            slots = max(int(target_lengths.max()), 0)
        else:
            slots = _longest(Plan(*ops.cif_plan(alpha.detach(), lengths, None, 0, *options)))
    plan = Plan(*ops.cif_plan(alpha, lengths, target_lengths, slots, *options))
    seqs = ops.cif_integrate(
        h,
        alpha,
        lengths,
        *(tensor.detach() for tensor in plan),
        target_lengths is not None,
        rules.beta,
        rules.tail_renorm,
        rules.tail_renorm_grad,
        chosen,
    )
    return CifOutput(seqs, plan.lengths, plan.alpha_sum, plan.fire_frames, plan.overflow)


def _longest(plan: Plan) -> int:
    return int((plan.lengths + plan.overflow).max())


def _check_options(
    beta: float,
    tail: str,
    tail_threshold: float,
    tail_strict: bool,
    tail_rescale: str,
    scale_eps: float,
    length_mode: str,
) -> Rules:
    for name, value in (("tail", tail), ("tail_rescale", tail_rescale), ("length_mode", length_mode)):
        if value not in _CHOICES[name]:
            raise ValueError(f"`{name}` must be one of {', '.join(_CHOICES[name])}, but is {value!r}.")
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"`beta` must be a finite number above 0, but is {beta}.")
    if not 0 <= tail_threshold <= 1:
        raise ValueError(f"`tail_threshold` must be from 0 to 1, but is {tail_threshold}.")
    if not (scale_eps >= 0 and math.isfinite(scale_eps)):
        raise ValueError(f"`scale_eps` must be a finite number of at least 0, but is {scale_eps}.")
    if length_mode == "round":
        if tail == "drop":
            raise ValueError("`length_mode` must be 'floor' when `tail` is 'drop', but is 'round'.")
        tail_threshold, tail_strict = 0.5, False
    return Rules(
        beta=float(beta),
        scale_eps=float(scale_eps),
        tail_threshold=math.inf if tail == "drop" else float(tail_threshold),
        tail_strict=tail_strict,
        tail_renorm=tail_rescale != "none",
        tail_renorm_grad=tail_rescale == "renorm",
    )


def _check_tensors(h: Tensor, alpha: Tensor, lengths: Tensor, target_lengths: Tensor | None, *, validate: bool) -> None:
    check_sequences("h", h)
    check_like("alpha", alpha, tuple(h.shape[:2]), "h", h)
    if not alpha.is_floating_point():
        raise ValueError(f"`alpha` must be floating-point, but is {str(alpha.dtype).removeprefix('torch.')}.")
    check_lengths("lengths", lengths, "h", h, validate=validate)
    if target_lengths is not None:
        check_like("target_lengths", target_lengths, (h.shape[0],), "h", h)
        if target_lengths.dtype not in (torch.int64, torch.int32):
            found = str(target_lengths.dtype).removeprefix("torch.")
            raise ValueError(f"`target_lengths` must be int64 or int32, but is {found}.")
    if torch.compiler.is_compiling():
        return
    if target_lengths is not None and (validate or target_lengths.device.type == "cpu"):
        wrong = (target_lengths < 0).nonzero()
        if len(wrong) > 0:
            row = int(wrong[0])
            raise ValueError(f"`target_lengths` must be at least 0, but is {int(target_lengths[row])} in row {row}.")
    if validate:
        frame = torch.arange(h.shape[1], device=h.device)
        wrong = ((frame < lengths[:, None]) & ~((alpha >= 0) & alpha.isfinite())).nonzero()
        if len(wrong) > 0:
            row, at = wrong[0].tolist()
            raise ValueError(
                f"`alpha` must be finite and at least 0, but is {float(alpha[row, at])} in row {row}, frame {at}."
            )
