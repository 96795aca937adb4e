"""The reader beside a plain loop, and lhotse where it is installed: its speed, its padding, and its first batch."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from speechllm_plugin.datasets.plan import Batching, BatchLimits, Sizes, padding, training_steps
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_tools.bench.data_files import lengths, positions, write_clips, write_rows
from speechllm_tools.bench.data_readers import BATCH_SECONDS, BATCHES, READERS, cuts_of
from speechllm_tools.bench.report import footer

Figures = Mapping[str, float]
_PADDED_CLIPS = 20_000
_POSITIONS = 2000
_PER_STEP = (4, 8, 16)


def run(options: argparse.Namespace, *, report: Callable[[str], None]) -> int:
    for name in ("rows", "clips", "repeats"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}: found {getattr(options, name)}, expected at least 1")
    readers = options.only or [name for name in READERS if name != "lhotse" or importlib.util.find_spec("lhotse")]
    with tempfile.TemporaryDirectory(dir=options.root) as folder:
        report(f"data: {options.clips:,} clips ...")
        clips = write_clips(Path(folder) / "clips", options.clips)
        speed = {name: _fastest(clips, name, "all", clips, options.repeats) for name in readers}
        report(f"data: {options.rows:,} rows ...")
        rows = write_rows(Path(folder) / "rows", options.rows)
        if "lhotse" in readers:
            cuts_of(rows)
        first = {name: _fastest(rows, name, "first", clips, options.repeats) for name in readers}
        size = rows.stat().st_size / 1e6
    page = _page(speed, _paddings(), first, size, options)
    print(page)
    if options.output is not None:
        write_text_atomically(options.output, page)
    return 0


def _fastest(manifest: Path, reader: str, what: str, small: Path, repeats: int) -> Figures:
    """The fastest of several readings, each in a process of its own, whose memory is measured."""
    command = [sys.executable, "-m", "speechllm_tools.bench.data_readers", *map(str, (manifest, reader, what, small))]
    runs = []
    for _ in range(repeats):
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"{reader} failed:\n{result.stderr}")
        runs.append(json.loads(result.stdout.splitlines()[-1]))
    return min(runs, key=lambda figures: figures["processor"])


def _paddings() -> list[tuple[str, list[float]]]:
    """The share of padding in the LLM's positions, for each number of batches in a step."""
    seconds = lengths(_PADDED_CLIPS)
    sizes = Sizes(seconds, positions(seconds))
    limited, clips = BatchLimits(1000, None, _POSITIONS), BatchLimits(10, None)
    ways: list[tuple[str, BatchLimits, Batching]] = [
        (f"`bucketed`, {_POSITIONS:,} positions", limited, "bucketed"),
        (f"`bucketed_steps`, {_POSITIONS:,} positions", limited, "bucketed_steps"),
        (f"`random`, {_POSITIONS:,} positions", limited, "random"),
        ("`bucketed`, 10 clips", clips, "bucketed"),
        ("a plain loop: 10 clips in random order", clips, "random"),
    ]
    return [
        (name, [padding(training_steps(sizes, limits, number, 1, 0, batching)[0], sizes) for number in _PER_STEP])
        for name, limits, batching in ways
    ]


def _page(
    speed: Mapping[str, Figures],
    paddings: Sequence[tuple[str, Sequence[float]]],
    first: Mapping[str, Figures],
    megabytes: float,
    options: argparse.Namespace,
) -> str:
    speeds = [
        [name, f"{figures['audio'] / figures['processor']:,.0f}", f"{figures['seconds']:.2f} s"]
        for name, figures in speed.items()
    ]
    firsts = [
        [name, *(f"{figures[key]:.2f} s" for key in ("processor", "seconds")), f"{figures['megabytes']:,.0f} MB"]
        for name, figures in first.items()
    ]
    padded = [[name, *(f"{share:.1%}" for share in shares)] for name, shares in paddings]
    command = ["speechllm", "bench", "data", "--rows", str(options.rows), "--clips", str(options.clips)]
    command += ["--repeats", str(options.repeats), *(["--only", *options.only] if options.only else [])]
    return f"""# The reader

Lengths as in CoVoST 2 (a mean of {np.mean(lengths(_PADDED_CLIPS)):.1f} s). `plain loop` does what fairseq's reader of
speech to text does: `csv.DictReader`, a dictionary a row, batches sorted by length, soundfile; it checks nothing.

## Speed

{options.clips:,} clips of 16 kHz FLAC, in batches of {BATCH_SECONDS:g} s: audio by the processor's time of one core.

{_table(["reader", "times real time", "wall clock"], speeds)}

## Padding

Share of the LLM's positions, at 12.5 vectors a second, by batches a step.

{_table(["batches", *map(str, _PER_STEP)], padded)}

## The first batch

Of a manifest of {options.rows:,} rows ({megabytes:,.0f} MB), with a file each, from opening the manifest on, in steps
of {BATCHES} batches. All rows are checked, and all files found to be there; no header is opened but those of the clips
that are read. Memory is what the process has at most above what it has after a first small manifest, with Python,
PyTorch and all that is imported. Lhotse reads its own manifest lazily, and checks what it reads of it.

{_table(["reader", "processor", "wall clock", "memory"], firsts)}

    {shlex.join(command)}

{footer()}
"""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
