"""Measures time, memory, host syncs and bandwidth on a CPU or a CUDA device.

CPU: medians of `time.perf_counter` over rounds in which the implementations take turns, so that a disturbance of the
machine hits all of them. CUDA: medians of event times; inputs rotate through enough copies to push each other out
of the L2 cache; "eager" launches each kernel from Python, "graph" replays a CUDA graph, free of launch costs.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from speechllm_tools.bench.correctness import gradients_of, leaves, make_cotangent

if TYPE_CHECKING:
    from speechllm_tools.bench.framework import Case, Operation

Step = Callable[[int], object]
FORWARD, BOTH, BACKWARD = "forward", "forward+backward", "backward"


class Timer:
    """
    Measures on one device.

    :param seconds: approximate time to measure each implementation, pass and mode.
    """

    def __init__(self, device: str, *, seconds: float = 1.0) -> None:
        self.device = device
        self.seconds = seconds
        self.copy_bandwidth = self._measure_copy()

    def measure(
        self,
        operation: Operation,
        case: Case,
        runs: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Tensor]]],
        make_inputs: Callable[[int], dict[str, Any]],
    ) -> dict[str, dict[str, Any]]:
        """
        Gives for each implementation in `runs`:

        - `seconds`: pass -> mode -> median; passes `forward` (without gradients), `forward+backward` and `backward`
          (the difference of the two);
        - `floor_bytes`: pass -> bytes; `input_sets`: number of rotated copies of the inputs;
        - on CUDA `peak_bytes` (pass -> peak memory over the inputs), `host_syncs` (pass -> count), `kernels` (GPU
          kernel -> mean seconds in one forward and backward, and its share of the copy bandwidth where its floor
          is known), `not_captured` (pass -> why) where a CUDA graph could not be made, `not_profiled` (why).
        """
        if not runs:
            return {}
        first = make_inputs(0)
        forward_floor, backward_floor = operation.floor_bytes(first)
        sets = [first, *(make_inputs(seed) for seed in range(1, self._set_count(first)))]
        for inputs in sets:
            for leaf in leaves(operation, inputs):
                leaf.requires_grad_()

        passes = (FORWARD, BOTH) if operation.output is not None else (FORWARD,)
        figures: dict[str, dict[str, Any]] = {
            name: {
                "seconds": {pass_name: {} for pass_name in passes},
                "floor_bytes": {FORWARD: forward_floor, BACKWARD: backward_floor, BOTH: forward_floor + backward_floor},
                "input_sets": len(sets),
            }
            for name in runs
        }
        for pass_name in passes:
            steps = {name: _make_step(operation, pass_name, run, sets) for name, run in runs.items()}
            if self.device == "cuda":
                for name, step in steps.items():
                    self._measure_cuda(operation, figures[name], pass_name, step, len(sets), first)
            else:
                for name, median in self._measure_cpu(steps).items():
                    figures[name]["seconds"][pass_name]["eager"] = median
        for figure in figures.values():
            seconds = figure["seconds"]
            if BOTH in seconds:
                pairs = {mode: (seconds[BOTH].get(mode, 0.0), forward) for mode, forward in seconds[FORWARD].items()}
                # Noise can be larger than the backward pass, which then gets no figure.
                seconds[BACKWARD] = {mode: both - forward for mode, (both, forward) in pairs.items() if both > forward}
        return figures

    def shares(self, figures: Mapping[str, Any]) -> dict[str, float]:
        """For each pass, floor bytes divided by the best mode's time, as a share of the copy bandwidth."""
        return {
            name: figures["floor_bytes"][name] / min(modes.values()) / self.copy_bandwidth
            for name, modes in figures["seconds"].items()
            if modes
        }

    def _set_count(self, inputs: Mapping[str, Any]) -> int:
        if self.device != "cuda":
            return 1
        size = sum(value.nbytes for value in inputs.values() if isinstance(value, Tensor))
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        return min(max(2, -(-4 * cache // max(size, 1))), 64)

    def _measure_copy(self) -> float:
        """Bytes read plus bytes written per second by a copy far larger than the caches."""
        size = (1 << 30) if self.device == "cuda" else (1 << 27)
        # Random bytes, since memory systems can be faster on zeros than on data.
        source = torch.randint(256, (size,), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)

        def step(_: int) -> object:
            return target.copy_(source)

        seconds = self._event_seconds(step) if self.device == "cuda" else self._measure_cpu({"copy": step})["copy"]
        return 2 * size / seconds

    def _measure_cpu(self, steps: Mapping[str, Step]) -> dict[str, float]:
        for step in steps.values():
            step(0)
            step(0)
        spent: dict[str, list[float]] = {name: [] for name in steps}
        deadline = time.perf_counter() + self.seconds * len(steps)
        rounds = 0
        while rounds < 3 or (time.perf_counter() < deadline and rounds < 1000):
            for name, step in steps.items():
                start = time.perf_counter()
                step(rounds)
                spent[name].append(time.perf_counter() - start)
            rounds += 1
        return {name: statistics.median(times) for name, times in spent.items()}

    def _measure_cuda(
        self, operation: Operation, figure: dict[str, Any], pass_name: str, step: Step, sets: int, first: dict[str, Any]
    ) -> None:
        for turn in range(3):
            step(turn)
        torch.cuda.synchronize()
        syncs = figure.setdefault("host_syncs", {})[pass_name] = _count_syncs(step)
        figure.setdefault("peak_bytes", {})[pass_name] = _peak_bytes(step)
        seconds = figure["seconds"][pass_name]
        seconds["eager"] = self._event_seconds(step)
        if syncs:
            figure.setdefault("not_captured", {})[pass_name] = f"{syncs} host syncs"
        else:
            try:
                seconds["graph"] = self._graph_seconds(step, sets)
            except RuntimeError as error:
                torch.cuda.synchronize()
                figure.setdefault("not_captured", {})[pass_name] = str(error).splitlines()[0]
        if pass_name == BOTH or operation.output is None:
            try:
                figure["kernels"] = self._kernels(step, operation.kernel_floor_bytes(first))
            except RuntimeError as error:
                figure["not_profiled"] = str(error).splitlines()[0]

    def _event_seconds(self, step: Step) -> float:
        """Median time of one step between CUDA events."""
        step(0)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for turn in range(3):
            step(turn)
        torch.cuda.synchronize()
        count = min(max(3, int(self.seconds / ((time.perf_counter() - start) / 3))), 1000)
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
        for turn, (before, after) in enumerate(events):
            before.record()
            step(turn)
            after.record()
        torch.cuda.synchronize()
        return statistics.median(before.elapsed_time(after) for before, after in events) / 1e3

    def _graph_seconds(self, step: Step, sets: int) -> float:
        """Median time of one step inside a CUDA graph that holds a whole rotation of the inputs."""
        turns = sets * -(-8 // sets)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for turn in range(3):
                step(turn)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for turn in range(turns):
                step(turn)
        return self._event_seconds(lambda _: graph.replay()) / turns

    def _kernels(self, step: Step, floors: Mapping[str, int]) -> dict[str, dict[str, float]]:
        """GPU kernel -> mean seconds per step and, where its floor is known, share of the copy bandwidth."""
        turns = 10
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for turn in range(turns):
                step(turn)
            torch.cuda.synchronize()
        kernels: dict[str, dict[str, float]] = {}
        for event in profile.key_averages():
            seconds = event.self_device_time_total / 1e6 / turns
            if seconds > 0:
                kernels[event.key] = {"seconds": seconds}
                for name, floor in floors.items():
                    if event.key.startswith(name):
                        kernels[event.key]["share"] = floor / seconds / self.copy_bandwidth
        return kernels


def _make_step(
    operation: Operation,
    pass_name: str,
    run: Callable[[Mapping[str, Any]], Mapping[str, Tensor]],
    sets: list[dict[str, Any]],
) -> Step:
    if pass_name == FORWARD:

        def forward(turn: int) -> object:
            with torch.no_grad():
                return run(sets[turn % len(sets)])

        return forward

    assert operation.output is not None
    cotangents: dict[torch.Size, Tensor] = {}
    # Made outside the measured steps; sets may differ in the number of slots of their outputs.
    for inputs in sets:
        with torch.no_grad():
            output = run(inputs)[operation.output]
        if output.shape not in cotangents:
            cotangents[output.shape] = make_cotangent(output)

    def both(turn: int) -> object:
        inputs = sets[turn % len(sets)]
        outputs = run(inputs)
        assert operation.output is not None
        return gradients_of(operation, inputs, outputs, cotangents[outputs[operation.output].shape])

    return both


def _count_syncs(step: Step) -> int:
    previous = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step(0)
        finally:
            torch.cuda.set_sync_debug_mode(previous)
    return sum("synchronizing" in str(warning.message) for warning in caught)


def _peak_bytes(step: Step) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(0)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
