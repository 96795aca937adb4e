"""Where the time of training steps goes, from a trace of fairseq2's profiler: parts of steps, and what lies between.

A GPU is at work while one of its kernels or copies runs, a CPU while an operator of PyTorch does: `idle` is the rest of
the time from the start of one step to the start of the next, `longest pause` its longest piece. The profiler itself
slows down small operators; on a CPU it makes pauses look longer than they are.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STEP = re.compile(r"step_(\d+)")
_PART = re.compile(r"step_(\d+)_(?:\d+_)?(setup|forward|backward|grad_norm|optimizer)")
_PARTS = ("forward", "backward", "grad_norm", "optimizer")
_ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(frozen=True)
class Span:
    """Times in microseconds."""

    start: float
    end: float

    @property
    def length(self) -> float:
        return self.end - self.start


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return [event for event in events if event.get("ph") == "X"]


def table(events: Sequence[dict[str, Any]]) -> str:
    steps: dict[int, Span] = {}
    parts: dict[tuple[int, str], float] = {}
    for event in events:
        if event.get("cat") != "user_annotation":
            continue
        if found := _STEP.fullmatch(event["name"]):
            steps[int(found[1])] = _span(event)
        elif found := _PART.fullmatch(event["name"]):
            key = int(found[1]), found[2]
            parts[key] = parts.get(key, 0.0) + event["dur"]
    on_gpu = any(event.get("cat") in _ON_GPU for event in events)
    busy = list(_union([_span(event) for event in events if event.get("cat") in (_ON_GPU if on_gpu else ("cpu_op",))]))
    columns = ("step", *_PARTS, "rest", "until the next", f"{'GPU' if on_gpu else 'CPU'} idle", "longest pause")
    lines = [f"| {' | '.join(columns)} |", "|" + " ---: |" * len(columns)]
    for number, span in sorted(steps.items()):
        following = steps.get(number + 1)
        if following is None:
            continue
        times = [parts.get((number, part), 0.0) for part in _PARTS]
        pauses = [pause.length for pause in _pauses(busy, Span(span.start, following.start))]
        cells = [
            *(_ms(time) for time in [*times, span.length - sum(times), following.start - span.end]),
            f"{sum(pauses) / (following.start - span.start):.1%}", _ms(max(pauses, default=0.0)),
        ]  # fmt: skip
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _span(event: dict[str, Any]) -> Span:
    return Span(event["ts"], event["ts"] + event["dur"])


def _union(spans: Sequence[Span]) -> Iterator[Span]:
    """Spans of the same times, none of which touch."""
    start = end = None
    for span in sorted(spans, key=lambda span: span.start):
        if start is None or end is None:
            start, end = span.start, span.end
        elif span.start <= end:
            end = max(end, span.end)
        else:
            yield Span(start, end)
            start, end = span.start, span.end
    if start is not None and end is not None:
        yield Span(start, end)


def _pauses(busy: Sequence[Span], within: Span) -> Iterator[Span]:
    last = within.start
    for span in busy:
        if span.end <= within.start or span.start >= within.end:
            continue
        if span.start > last:
            yield Span(last, span.start)
        last = max(last, span.end)
    if within.end > last:
        yield Span(last, within.end)


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:.1f} ms"
