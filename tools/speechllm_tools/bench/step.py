"""`speechllm bench step`: times our training steps beside those of transformers' classes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch

from speechllm_plugin.errors import UserError
from speechllm_tools.bench.out_of_memory import runs_out
from speechllm_tools.bench.peers import Voxtral
from speechllm_tools.bench.report import describe_machine, footer
from speechllm_tools.bench.step_figures import PARTS, Figures, count, split, time_step
from speechllm_tools.bench.system import WIDTHS, Clips, System, label_of, name_of
from speechllm_tools.bench.systems import clock, command_of, dtypes_of, systems_of

HEAD = """\
# A training step beside transformers' classes

{what} and what joins them, with random weights: encoder and LLM are frozen,
forward and backward of one batch. The systems take turns, in one run; a time is the median of its rounds.

- encoder to backward: the parts of a step, timed in a round of its own, in which a GPU finishes each part before the
  next one begins: together they may take longer than the step. Loss is the LLM's head, the cross entropy and what joins
  speech and text, whatever of the forward pass the three before it are not.
- step: nothing is measured inside it. Wait: how long the host, when it has queued the whole step, then waits for the
  GPU; near 0, the GPU has waited for the host instead. Always 0 on a CPU. Waits in the middle of a step are not in it.
- positions: of the LLM in a step, padding included, without ours before the speech, whose states are kept. Real:
  without padding, and without the vectors of the silence with which a clip is filled up to 30 s.
- Voxtral's by it, float32's by it: times of Voxtral in the same precision, and of the same system in float32.
- TFLOP: of the matrix products of a step. Of the matrix rate: these by its seconds, as a share of what one product of
  two square matrices of {size} rows reaches in the same run and precision.
- peak: growth of the {whose} memory in a step.
"""
COLUMNS = (
    "positions", "real", *(f"{part} s" for part in PARTS), "step s", "wait s", "Voxtral's by it", "float32's by it",
    "positions/s", "real/s", "TFLOP", "of the matrix rate", "peak GB",
)  # fmt: skip
_SIZES = {"cpu": 1024, "cuda": 8192}
"""Sizes of the matrices whose product gives the matrix rate."""


def run(options: argparse.Namespace, device: str, *, report: Callable[[str], None]) -> int:
    sizes = options.batches or [len(options.clips)]
    if min(sizes) < 1:
        raise UserError(f"--batches: found {min(sizes)}, expected at least 1")
    systems = systems_of(options, device)
    rates = {dtype: matrix_rate(device, dtype) for dtype in dtypes_of(options, device)}
    tables, rows = [], []
    for size in sizes:
        clips = Clips(list(islice(cycle(options.clips), size)), options.tokens)
        figures = measure(systems, clips, options.rounds, report)
        tables.append(table_of(clips, systems, figures, rates))
        rows += [_row(system, size, figures[system.label], rates) for system in systems]
    page = _page(tables, rates, options, device)
    print(page)
    if options.output is not None:
        options.output.write_text(page + "\n", encoding="utf-8")
    if options.json is not None:
        document = {"benchmark": "step", "machine": describe_machine(device), "results": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(
    systems: Sequence[System], clips: Clips, rounds: int, report: Callable[[str], None]
) -> dict[str, Figures]:
    """
    :param rounds: rounds of whole steps, after one to warm up and before one that is timed part by part.
    :returns: the figures of each system, by its label.
    """
    figures = {system.label: Figures() for system in systems}

    def in_turn(what: str, work: Callable[[System, Figures], None]) -> None:
        for system in systems:
            found = figures[system.label]
            if found.ran_out:
                continue
            found.ran_out = runs_out(partial(work, system, found))
            report(f"{len(clips.seconds)} clips, {what}: {system.label}{': out of memory' if found.ran_out else ''}")

    def begin(system: System, found: Figures) -> None:
        system.prepare(clips)
        count(system, found)

    in_turn("ready", begin)
    for number in range(1, rounds + 1):
        in_turn(f"round {number}", time_step)
    in_turn("its parts", split)
    return figures


def table_of(
    clips: Clips, systems: Sequence[System], figures: dict[str, Figures], rates: dict[torch.dtype, float]
) -> str:
    shown = f"{', '.join(f'{seconds:g}' for seconds in clips.seconds[:4])}{' ...' if len(clips.seconds) > 4 else ''}"
    lines = [
        f"Batches of {len(clips.seconds)}: clips of {shown} s, {clips.target_tokens} target tokens each.", "",
        f"| system | {' | '.join(COLUMNS)} |", "| --- " + "| ---: " * len(COLUMNS) + "|",
    ]  # fmt: skip
    for system in systems:
        cells = _cells(system, figures, rates)
        lines.append(f"| {system.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(system: System, figures: dict[str, Figures], rates: dict[torch.dtype, float]) -> list[str]:
    found = figures[system.label]
    if found.ran_out:
        return ["out of memory", *["-"] * (len(COLUMNS) - 1)]
    others = (label_of(Voxtral.name, system.dtype), label_of(system.name, torch.float32))
    known = [figures[other] if other in figures and not figures[other].ran_out else None for other in others]
    return [
        str(found.positions), str(found.real),
        *(_seconds(time) for time in (*(found.parts[part] for part in PARTS), found.median, found.wait)),
        *("-" if other is None else f"{other.median / found.median:.1f}x" for other in known),
        f"{found.positions / found.median:.0f}", f"{found.real / found.median:.0f}", f"{found.flops / 1e12:.3g}",
        f"{found.flops / found.median / rates[system.dtype]:.0%}",
        "-" if found.peak is None else f"{found.peak / 1e9:.2f}",
    ]  # fmt: skip


def _seconds(time: float) -> str:
    return f"{time:.3g}" if time >= 0.001 else "0"


def _row(system: System, clips: int, found: Figures, rates: dict[torch.dtype, float]) -> dict[str, Any]:
    """The figures of a system for the JSON."""
    row: dict[str, Any] = {
        "system": system.name, "dtype": name_of(system.dtype), "clips": clips, "out_of_memory": found.ran_out,
    }  # fmt: skip
    if not found.ran_out:
        row |= {
            "seconds": found.median, "wait": found.wait, "parts": found.parts, "positions": found.positions,
            "real_positions": found.real, "flops": found.flops, "peak_bytes": found.peak,
            "matrix_share": found.flops / found.median / rates[system.dtype],
        }  # fmt: skip
    return row


def _page(
    tables: Sequence[str], rates: dict[torch.dtype, float], options: argparse.Namespace, device: str
) -> str:
    head = HEAD.format(
        what=WIDTHS[options.widths].what, size=_SIZES[device], whose="GPU's" if device == "cuda" else "process's"
    )
    shown = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name_of(dtype)}" for dtype, rate in rates.items())
    sizes = f" --batches {' '.join(map(str, options.batches))}" if options.batches else ""
    notes = [
        f"{options.rounds} round(s). The matrix rate: {shown}.", f"    {command_of(options, device)}{sizes}", footer(),
    ]  # fmt: skip
    return "\n\n".join([head.rstrip(), *tables, *notes])


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
