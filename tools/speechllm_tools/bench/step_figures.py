"""The figures of a training step of one system: its time, its parts, its matrix products, its memory."""

from __future__ import annotations

import ctypes
import gc
import resource
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speechllm_plugin.cost.estimate import FlopCounter
from speechllm_tools.bench.system import System
from speechllm_tools.bench.systems import clock

PARTS = ("encoder", "adapter", "LLM", "loss", "backward")


@dataclass
class Figures:
    seconds: list[float] = field(default_factory=list)
    """Of each whole step."""
    waits: list[float] = field(default_factory=list)
    """Of each of them, the seconds that the host has waited at its end for the device."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of each part, of a step of its own."""
    positions: int = 0
    real: int = 0
    """Positions without padding."""
    flops: int = 0
    peak: int | None = None
    ran_out: bool = False
    """Whether memory was too short for the system."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def wait(self) -> float:
        return statistics.median(self.waits)


def count(system: System, found: Figures) -> None:
    """Counts positions and matrix products, in a step that also warms up."""
    found.positions, found.real = system.positions(), system.real_positions()
    _forget_gradients(system)
    with FlopCounter() as counter:
        system.loss().backward()
    found.flops = counter.get_total_flops()


def time_step(system: System, found: Figures) -> None:
    """Times a whole step; nothing in it waits for the device but what the system itself waits for."""
    _forget_gradients(system)
    on_gpu = system.weight.is_cuda
    before = torch.cuda.memory_allocated() if on_gpu else _reset_peak()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = clock()
    system.loss().backward()
    queued = time.perf_counter()
    end = clock()
    found.seconds.append(end - start)
    found.waits.append(end - queued)
    if before is not None:
        peak = torch.cuda.max_memory_allocated() if on_gpu else _memory("VmHWM")
        found.peak = max(found.peak or 0, peak - before)


def split(system: System, found: Figures) -> None:
    """Times the parts of a step, each after the device has done the one before it."""
    _forget_gradients(system)
    timers = {
        name: _Timer(module)
        for name, module in (("encoder", system.encoder), ("adapter", system.adapter), ("LLM", system.decoder))
    }
    try:
        start = clock()
        loss = system.loss()
        middle = clock()
        loss.backward()
        end = clock()
    finally:
        found.parts = {name: timer.close() for name, timer in timers.items()}
    found.parts |= {"loss": middle - start - sum(found.parts.values()), "backward": end - middle}


class _Timer:
    """Counts the seconds inside a module's forward pass."""

    def __init__(self, module: nn.Module) -> None:
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


def _forget_gradients(system: System) -> None:
    for parameter in system.adapter.parameters():
        parameter.grad = None


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
