"""`speechllm bench step`: times our training steps beside those of transformers' classes."""

from __future__ import annotations

import argparse
import ctypes
import gc
import resource
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speechllm_plugin.cost.estimate import FlopCounter
from speechllm_tools.bench.peers import Voxtral
from speechllm_tools.bench.report import footer
from speechllm_tools.bench.system import WIDTHS, Clips, System, label_of, name_of
from speechllm_tools.bench.systems import clock, command_of, dtypes_of, systems_of

HEAD = """\
# A training step beside transformers' classes

{what} and what joins them, with random weights: encoder and LLM are frozen,
forward and backward of one batch. The systems take turns, in one run; a time is the median of its rounds.

- positions: of the LLM in a step, padding included, without ours before the speech, whose states are kept.
- Voxtral's by it, float32's by it: times of Voxtral in the same precision, and of the same system in float32.
- of the matrix rate: matrix products of the step by its seconds, as a share of what one product of two square matrices
  of {size} rows reaches in the same run and precision.
- peak: growth of the {whose} memory in a step.
"""
_SIZES = {"cpu": 1024, "cuda": 8192}
"""Sizes of the matrices whose product gives the matrix rate."""


@dataclass
class Figures:
    seconds: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=lambda: {"encoder": [], "adapter": [], "LLM": []})
    flops: int = 0
    peak: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def run(options: argparse.Namespace, device: str, *, report: Callable[[str], None]) -> int:
    systems = systems_of(options, device)
    figures = {system.label: Figures() for system in systems}
    for system in systems:
        system.prepare(Clips(options.clips, options.tokens))
    for number in range(options.rounds + 1):
        for system in systems:
            found = figures[system.label]
            _step(system, found, is_first=number == 0)
            report(f"round {number}: {system.label}: {found.seconds[-1]:.2f} s" if number else f"ready: {system.label}")
    page = page_of(systems, figures, options, device)
    print(page)
    if options.output is not None:
        options.output.write_text(page + "\n", encoding="utf-8")
    return 0


def _step(system: System, found: Figures, *, is_first: bool) -> None:
    parameters = list(system.adapter.parameters())
    for parameter in parameters:
        parameter.grad = None
    if is_first:
        with FlopCounter() as counter:
            system.loss().backward()
        found.flops = counter.get_total_flops()
        return
    timers = {name: _Timer(getattr(system, name.lower())) for name in found.parts}
    on_gpu = system.weight.is_cuda
    before = torch.cuda.memory_allocated() if on_gpu else _reset_peak()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = clock()
    loss = system.loss()
    loss.backward()
    found.seconds.append(clock() - start)
    if before is not None:
        peak = torch.cuda.max_memory_allocated() if on_gpu else _memory("VmHWM")
        found.peak = max(found.peak or 0, peak - before)
    for name, timer in timers.items():
        found.parts[name].append(timer.close())


class _Timer:
    """Counts the seconds inside a module's forward pass."""

    def __init__(self, module: nn.Module) -> None:
        # Our systems call the decoder inside the part.
        module = getattr(module, "decoder", module)
        self._seconds, self._start = 0.0, 0.0
        self._hooks = [module.register_forward_pre_hook(self._begin), module.register_forward_hook(self._end)]

    def _begin(self, *_: Any) -> None:
        self._start = clock()

    def _end(self, *_: Any) -> None:
        self._seconds += clock() - self._start

    def close(self) -> float:
        for hook in self._hooks:
            hook.remove()
        return self._seconds


def page_of(
    systems: Sequence[System], figures: dict[str, Figures], options: argparse.Namespace, device: str
) -> str:
    rates = {dtype: matrix_rate(device, dtype) for dtype in dtypes_of(options, device)}
    columns = ("positions", "encoder s", "adapter s", "LLM s", "step s", "Voxtral's by it", "float32's by it",
               "positions/s", "of the matrix rate", "peak GB")
    rows = [f"| system | {' | '.join(columns)} |", "| --- " + "| ---: " * len(columns) + "|"]
    for system in systems:
        found = figures[system.label]
        parts = " | ".join(f"{statistics.median(times):.2f}" for times in found.parts.values())
        others = (label_of(Voxtral.name, system.dtype), label_of(system.name, torch.float32))
        times = " | ".join(
            f"{figures[other].median / found.median:.1f}x" if other in figures else "-" for other in others
        )
        share = found.flops / found.median / rates[system.dtype]
        peak = "-" if found.peak is None else f"{found.peak / 1e9:.2f}"
        rows.append(
            f"| {system.label} | {system.positions()} | {parts} | {found.median:.2f} | {times} | "
            f"{system.positions() / found.median:.0f} | {share:.0%} | {peak} |"
        )
    shown = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name_of(dtype)}" for dtype, rate in rates.items())
    notes = [
        f"Clips of {', '.join(f'{seconds:g}' for seconds in options.clips)} s, {options.tokens} target tokens each; "
        f"{options.rounds} round(s). The matrix rate: {shown}. Encoder, adapter and LLM are their "
        "forward passes; the rest of a step is the loss and the backward pass.",
        "", f"    {command_of(options, device)}", "", footer(),
    ]
    head = HEAD.format(
        what=WIDTHS[options.widths].what, size=_SIZES[device], whose="GPU's" if device == "cuda" else "process's"
    )
    return "\n".join([head, *rows, "", *notes])


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a product of two matrices, the best of five."""
    size = _SIZES[device]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(5):
        start = clock()
        a @ b
        times.append(clock() - start)
    return 2 * size**3 / min(times)


def _memory(key: str) -> int:
    """Memory of this process in bytes: `VmRSS`, or its peak, `VmHWM`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _reset_peak() -> int | None:
    """Begins a new peak of memory, where the system can.

    :returns: the current memory; None where the system cannot.
    """
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # returns freed memory to the system, so that it counts again when used
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    return _memory("VmRSS")
