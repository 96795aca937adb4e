"""The gate: compares an implementation's outputs and gradients with the float64 reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from speechllm_tools.bench.framework import Case, Operation


@dataclass(frozen=True, kw_only=True)
class Verdict:
    right: bool
    message: str = ""
    errors: dict[str, float] = field(default_factory=dict)
    reproducible: bool | None = None
    raised: bool = False
    graph_breaks: int = 0


def leaves(operation: Operation, inputs: Mapping[str, Any]) -> list[Tensor]:
    """The inputs whose gradients are compared."""
    return [inputs[name] for name in operation.differentiate] if operation.output is not None else []


def make_cotangent(output: Tensor, seed: int = 1) -> Tensor:
    """A random dL/d`output`, drawn on the CPU so that every device gets the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(output.shape, generator=generator).to(output)


def reference_values(operation: Operation, case: Case, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Outputs of the float64 reference, its gradients as `d<input>`, and the cotangent they belong to."""
    wide = {
        name: value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    for leaf in leaves(operation, wide):
        leaf.requires_grad_()
    outputs = dict(operation.reference(wide))
    if operation.output is not None:
        output = outputs[operation.output]
        # The cotangent has the case's dtype, so that each implementation gets exactly the same numbers.
        cotangent = make_cotangent(output).to(case.dtype)
        gradients = torch.autograd.grad(output, leaves(operation, wide), cotangent.to(output))
        outputs |= {f"d{name}": gradient for name, gradient in zip(operation.differentiate, gradients, strict=True)}
        outputs["cotangent"] = cotangent
    return {name: value.detach() for name, value in outputs.items()}


def judge(
    operation: Operation,
    case: Case,
    run: Callable[[Mapping[str, Any]], Mapping[str, Tensor]],
    inputs: Mapping[str, Any],
    expected: Mapping[str, Tensor],
) -> Verdict:
    """Runs an implementation twice, and compares the results with the reference and with each other."""
    torch._dynamo.utils.counters.clear()
    try:
        first = _values(operation, run, inputs, expected)
        second = _values(operation, run, inputs, expected)
        # Equal infinities and NaN count as equal bits here; the comparison with the reference rejects them.
        same = all(torch.equal(first[name].nan_to_num(), second[name].nan_to_num()) for name in first)
        errors = {name: relative_error(value, expected[name]) for name, value in first.items()}
    except Exception as error:  # a failure of an implementation is a result, not the end of the run
        text = str(error).strip()
        return Verdict(
            right=False, raised=True, message=f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
        )
    breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
    tolerance = operation.tolerances[case.dtype]
    off = [f"{name} is off by {error:.1e}" for name, error in errors.items() if not error <= tolerance]
    message = f"{', '.join(off)} (allowed: {tolerance:.0e})" if off else ""
    return Verdict(right=not off, message=message, errors=errors, reproducible=same, graph_breaks=breaks)


def _values(
    operation: Operation,
    run: Callable[[Mapping[str, Any]], Mapping[str, Tensor]],
    inputs: Mapping[str, Any],
    expected: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    for leaf in leaves(operation, inputs):
        leaf.requires_grad_()
    outputs = dict(run(inputs))
    if operation.output is not None:
        gradients = gradients_of(operation, inputs, outputs, expected["cotangent"])
        outputs |= {f"d{name}": gradient for name, gradient in zip(operation.differentiate, gradients, strict=True)}
    return {name: value.detach() for name, value in outputs.items()}


def gradients_of(
    operation: Operation, inputs: Mapping[str, Any], outputs: Mapping[str, Tensor], cotangent: Tensor
) -> tuple[Tensor, ...]:
    assert operation.output is not None
    output = outputs[operation.output]
    return torch.autograd.grad(output, leaves(operation, inputs), fit(cotangent, output.shape).to(output))


def fit(value: Tensor, shape: torch.Size) -> Tensor:
    """Cuts or zero-pads each dimension: implementations may choose how many unused slots their output has."""
    if value.shape == shape:
        return value
    fitted = value.new_zeros(shape)
    common = tuple(slice(0, min(a, b)) for a, b in zip(value.shape, shape, strict=True))
    fitted[common] = value[common]
    return fitted


def relative_error(value: Tensor, expected: Tensor) -> float:
    """‖value - expected‖ / ‖expected‖; for integers 0 or inf."""
    if value.ndim != expected.ndim:
        return math.inf
    shape = torch.Size(max(a, b) for a, b in zip(value.shape, expected.shape, strict=True))
    if not expected.is_floating_point():
        # Where unused slots are marked by a number, an implementation must mark as many as the reference.
        return 0.0 if value.shape == expected.shape and torch.equal(value.to(expected), expected) else math.inf
    value, expected = fit(value, shape).double(), fit(expected, shape).double()
    difference = torch.linalg.vector_norm(value - expected).item()
    scale = torch.linalg.vector_norm(expected).item()
    # A reference that is 0 up to rounding, such as the gradient of a weight that is always 1, has no scale.
    error = difference / scale if scale > 1e-9 else difference
    return error if math.isfinite(error) else math.inf
