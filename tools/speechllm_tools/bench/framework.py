"""The declaration of a benchmark: cases, operations and the implementations that compete in them.

A kernel's module (`bench/cif.py`, `bench/ctc_collapse.py`) holds one `BENCHMARK`; `run_benchmark` does the rest:
every (implementation, case) pair is first compared with the float64 reference, then timed.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from speechllm_tools.bench.correctness import Verdict, judge, reference_values
from speechllm_tools.bench.timing import Timer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCES = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

# Module with `BENCHMARK` of each kernel on the command line, imported only when needed.
REGISTRY = {"cif": "speechllm_tools.bench.cif", "ctc-collapse": "speechllm_tools.bench.ctc_collapse"}

Inputs = Mapping[str, Any]
Outputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One problem size on one device."""

    shape: tuple[int, ...]
    """Dimensions in the order of `Benchmark.dimensions`."""

    dtype: torch.dtype
    device: str
    """`cpu` or `cuda`."""

    variant: str = "full"
    """One of `Benchmark.variants`: the kind of data."""

    seed: int = 0

    @property
    def dtype_name(self) -> str:
        return next((name for name, dtype in DTYPES.items() if dtype == self.dtype), str(self.dtype))


def always(device: str) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """One way to compute an operation."""

    name: str

    run: Callable[[Inputs], Outputs]
    """Inputs as `Operation.make_inputs` gave them -> named outputs; it may give a subset of the reference's."""

    baseline: bool = False
    """Whether it is a peer. A peer is timed even if it differs from the reference, which is reported, and an exception
    in it does not fail the run."""

    absent: Callable[[str], str | None] = always
    """Why it cannot run on a device, such as a package that is not installed; None = it can."""

    compiled: bool = False
    """Whether it runs through `torch.compile`; graph breaks are counted."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A function with a reference, and the implementations that compete in it."""

    name: str

    make_inputs: Callable[[Case], dict[str, Any]]
    """Fresh inputs on the case's device, the same for the same case and seed."""

    reference: Callable[[Inputs], Outputs]
    """Differentiable reference, which gets all floating-point inputs in float64."""

    implementations: Sequence[Implementation]

    floor_bytes: Callable[[Inputs], tuple[int, int]]
    """The fewest bytes that forward and backward can move through memory, by the inputs."""

    kernel_floor_bytes: Callable[[Inputs], Mapping[str, int]] = lambda inputs: {}
    """The fewest bytes of single GPU kernels by name, for the share of each kernel."""

    output: str | None = "seqs"
    """The output that is back-propagated from; None for an operation without gradients."""

    differentiate: tuple[str, ...] = ("h",)
    """The inputs whose gradients are computed."""

    by_default: Callable[[Case], bool] = lambda case: True
    """Whether a default case is timed; shapes from the command line always are."""

    tolerances: Mapping[torch.dtype, float] = field(default_factory=lambda: TOLERANCES)
    """Largest allowed ‖x - reference‖ / ‖reference‖ of outputs and gradients. Integers must be equal."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One kernel's benchmark."""

    dimensions: tuple[str, ...]
    """Names of a shape's numbers, e.g. `("B", "T", "C", "U")`. The last one may be left out on the command line."""

    last_dimension: Callable[[tuple[int, ...]], int]
    """The default of a shape's last number, by the other numbers."""

    variants: Mapping[str, str]
    """A line about the data of each variant, of which one is `full`."""

    cases: Callable[[str], Sequence[Case]]
    """The default cases on a device."""

    gate_cases: Callable[[str], Sequence[Case]]
    """Small, awkward cases on a device, which must be right before anything is timed."""

    operations: Sequence[Operation]


@dataclass(kw_only=True)
class Result:
    """Result of one (operation, case, implementation). Times in seconds, sizes in bytes."""

    operation: str
    shape: tuple[int, ...]
    dtype: str
    variant: str
    implementation: str
    baseline: bool

    status: str
    """`ok`; `FAILED` (wrong or raised); `differs` (a baseline off the reference, timed all the same); `absent`."""

    message: str = ""
    errors: dict[str, float] = field(default_factory=dict)
    """For each output or gradient, the relative norm of its difference from the float64 reference."""

    reproducible: bool | None = None
    """Whether two runs gave the same bits, also in the gradients."""

    graph_breaks: int | None = None
    """Only for compiled implementations."""

    figures: dict[str, Any] = field(default_factory=dict)
    """See `Timer`: times by pass and mode, peak memory, host syncs, GPU kernels."""

    shares: dict[str, float] = field(default_factory=dict)
    """For each pass, floor bytes divided by time, as a share of the copy bandwidth of the same run."""

    speedups: dict[str, dict[str, float]] = field(default_factory=dict)
    """Speed-up over each baseline in each pass, with the best mode of each side."""


def load_benchmark(name: str) -> Benchmark:
    benchmark = importlib.import_module(REGISTRY[name]).BENCHMARK
    assert isinstance(benchmark, Benchmark)
    return benchmark


def needs_package(module: str, distribution: str) -> Callable[[str], str | None]:
    """`Implementation.absent` for a peer that a package brings."""

    def absent(device: str) -> str | None:
        if importlib.util.find_spec(module) is None:
            return f"{distribution} is not installed"
        return None

    return absent


def only_on(wanted: str) -> Callable[[str], str | None]:
    """`Implementation.absent` for an implementation for one kind of device."""
    return lambda device: None if device == wanted else f"runs on {wanted} only"


def run_benchmark(
    benchmark: Benchmark,
    cases: Sequence[Case],
    timer: Timer,
    *,
    defaults: bool = False,
    only: Sequence[str] | None = None,
    gate_cases: Sequence[Case] = (),
    report: Callable[[str], None] = print,
) -> list[Result]:
    """
    Gates and times every operation of `benchmark` over `cases`.

    :param defaults: whether `cases` are the default ones, from which each operation selects.
    :param only: names of the implementations to run; all when None.
    :param gate_cases: cases that are only checked, before any timing.
    """
    results: list[Result] = []
    for operation in benchmark.operations:
        chosen = [one for one in operation.implementations if only is None or one.name in only]
        failed = _gate(operation, chosen, gate_cases, report)
        results.extend(failed)
        wrong = {result.implementation for result in failed}
        for case in cases:
            if defaults and not operation.by_default(case):
                continue
            report(f"{operation.name} {case.shape} {case.dtype_name} {case.variant} ...")
            results.extend(_run_case(operation, [one for one in chosen if one.name not in wrong], case, timer))
    return results


def _gate(
    operation: Operation, chosen: Sequence[Implementation], cases: Sequence[Case], report: Callable[[str], None]
) -> list[Result]:
    failed: dict[str, Result] = {}
    pairs = 0
    for case in cases:
        # Compiling for each small case would take minutes, so compiled code is checked on the timed cases.
        candidates = [
            one
            for one in chosen
            if not one.baseline and not one.compiled and one.name not in failed and one.absent(case.device) is None
        ]
        for implementation, _, verdict in _judge_all(operation, candidates, case):
            pairs += 1
            if not verdict.right:
                failed[implementation.name] = _result(operation, case, implementation, verdict)
    report(f"{operation.name}: gate of {len(cases)} cases, {pairs} comparisons, {len(failed)} failed")
    return list(failed.values())


def _judge_all(
    operation: Operation, implementations: Iterable[Implementation], case: Case
) -> Iterator[tuple[Implementation, Callable[[Inputs], Outputs], Verdict]]:
    """Yields each implementation that can run here, with its function, which may be compiled, and its verdict."""
    inputs = operation.make_inputs(case)
    expected = reference_values(operation, case, inputs)
    for implementation in implementations:
        run = implementation.run
        if implementation.compiled:
            torch._dynamo.reset()
            run = torch.compile(run)
        yield implementation, run, judge(operation, case, run, inputs, expected)


def _run_case(
    operation: Operation, implementations: Sequence[Implementation], case: Case, timer: Timer
) -> list[Result]:
    results: list[Result] = []
    present: list[Implementation] = []
    for implementation in implementations:
        reason = implementation.absent(case.device)
        if reason is None:
            present.append(implementation)
        else:
            results.append(_result(operation, case, implementation, Verdict(right=False, message=reason), "absent"))

    runs: dict[str, Callable[[Inputs], Outputs]] = {}
    timed: dict[str, Result] = {}
    for implementation, run, verdict in _judge_all(operation, present, case):
        result = _result(operation, case, implementation, verdict)
        results.append(result)
        if result.status != "FAILED":
            runs[implementation.name] = run
            timed[implementation.name] = result

    figures = timer.measure(operation, case, runs, lambda seed: operation.make_inputs(_reseeded(case, seed)))
    for name, result in timed.items():
        result.figures = figures[name]
        result.shares = timer.shares(figures[name])
    for result in timed.values():
        if not result.baseline:
            result.speedups = {
                name: _speedups(result.figures["seconds"], other.figures["seconds"])
                for name, other in timed.items()
                if other.baseline
            }
    return results


def _reseeded(case: Case, seed: int) -> Case:
    return Case(shape=case.shape, dtype=case.dtype, device=case.device, variant=case.variant, seed=seed)


def _result(
    operation: Operation, case: Case, implementation: Implementation, verdict: Verdict, status: str | None = None
) -> Result:
    if status is None:
        tolerable = implementation.baseline and not verdict.raised
        status = "ok" if verdict.right else "differs" if tolerable else "FAILED"
    return Result(
        operation=operation.name,
        shape=case.shape,
        dtype=case.dtype_name,
        variant=case.variant,
        implementation=implementation.name,
        baseline=implementation.baseline,
        status=status,
        message=verdict.message,
        errors=verdict.errors,
        reproducible=verdict.reproducible,
        graph_breaks=verdict.graph_breaks if implementation.compiled else None,
    )


def _speedups(ours: Mapping[str, Mapping[str, float]], theirs: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The speed-up in each pass, with each side in its best mode: a peer that can run in a CUDA graph does."""
    return {
        name: min(theirs[name].values()) / min(ours[name].values()) for name in ours if ours[name] and theirs.get(name)
    }
