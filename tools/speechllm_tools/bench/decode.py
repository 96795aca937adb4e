"""`speechllm bench decode`: how fast our systems write beside transformers' classes."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice

from speechllm_plugin.errors import UserError
from speechllm_tools.bench.out_of_memory import runs_out
from speechllm_tools.bench.peers import Qwen2Audio, Voxtral
from speechllm_tools.bench.report import footer
from speechllm_tools.bench.system import WIDTHS, Clips, System, label_of
from speechllm_tools.bench.systems import clock, command_of, systems_of

HEAD = """\
# Decoding beside transformers' classes

{what} and what joins them, with random weights. Every clip gets the same number of
tokens, greedily, from audio to tokens (of `cached`: from features). The systems take turns, in one run; a time is the
median of its rounds. In bfloat16 each of our rows is checked for the tokens that it gives alone; peers' are not.
"""


@dataclass
class Figures:
    seconds: list[float] = field(default_factory=list)
    written: int = 0
    """Number of tokens that were written."""
    ran_out: bool = False
    """Whether memory was too short for the system."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def run(options: argparse.Namespace, device: str, *, report: Callable[[str], None]) -> int:
    if min(options.batches) < 1:
        raise UserError(f"--batches: found {min(options.batches)}, expected at least 1")
    systems = systems_of(options, device)
    tables = []
    for size in options.batches:
        batches = batches_of(options.clips, size, options.tokens)
        figures = {system.label: Figures() for system in systems}
        for number in range(options.rounds + 1):
            for system in systems:
                found = figures[system.label]
                if found.ran_out:
                    continue
                tokens = 2 if number == 0 else options.tokens
                found.ran_out = runs_out(partial(_decode, system, batches, found, tokens))
                told = "out of memory" if found.ran_out else f"{found.seconds[-1]:.2f} s"
                report(f"batches of {size}, round {number}: {system.label}: {told}")
        for found in figures.values():
            del found.seconds[:1]  # the warm-up, of a few tokens
        tables.append(table_of(size, batches, systems, figures))
    head = HEAD.format(what=WIDTHS[options.widths].what)
    command = f"    {command_of(options, device)} --batches {' '.join(map(str, options.batches))}"
    page = "\n\n".join([head.rstrip(), *tables, command, footer()])
    print(page)
    if options.output is not None:
        options.output.write_text(page + "\n", encoding="utf-8")
    return 0


def batches_of(seconds: Sequence[float], size: int, tokens: int) -> list[Clips]:
    """Batches of `size` clips; clips are repeated where there are too few."""
    clips = list(islice(cycle(seconds), max(size, len(seconds))))
    return [Clips(clips[i : i + size], tokens) for i in range(0, len(clips), size)]


def _decode(system: System, batches: Sequence[Clips], found: Figures, tokens: int) -> None:
    taken, found.written = 0.0, 0
    for clips in batches:
        system.prepare(clips)
        start = clock()
        found.written += system.decode(tokens)
        taken += clock() - start
    found.seconds.append(taken)


def table_of(
    size: int, batches: Sequence[Clips], systems: Sequence[System], figures: dict[str, Figures]
) -> str:
    peers = {"Voxtral's by it": Voxtral.name, "Qwen2-Audio's by it": Qwen2Audio.name}
    columns = ("seconds", "tokens", "tokens/s", *peers)
    rows = [f"| system | {' | '.join(columns)} |", "| --- " + "| ---: " * len(columns) + "|"]
    for system in systems:
        found = figures[system.label]
        if found.ran_out:
            rows.append(f"| {system.label} | out of memory{' | -' * (len(columns) - 1)} |")
            continue
        others = [figures.get(label_of(peer, system.dtype)) for peer in peers.values()]
        ratios = [
            "-" if other is None or other.ran_out else f"{other.median / found.median:.1f}x" for other in others
        ]
        rate = f"{found.written / found.median:.1f}"
        rows.append(f"| {system.label} | {found.median:.2f} | {found.written} | {rate} | {' | '.join(ratios)} |")
    clips = [seconds for batch in batches for seconds in batch.seconds]
    shown = f"{', '.join(f'{length:g}' for length in clips[:4])}{' ...' if len(clips) > 4 else ''}"
    what = f"{len(clips)} clips of {shown} s, {batches[0].target_tokens} tokens each, in batches of {size}:"
    return "\n".join([what, "", *rows])
