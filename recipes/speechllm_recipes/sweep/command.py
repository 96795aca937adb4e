"""`fairseq2 recipe run speech_llm sweep OUT --config-file SWEEP`: a grid of systems, trained and evaluated."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_assignment
from speechllm_recipes.sweep.cells import CellFolder
from speechllm_recipes.sweep.launch import run_cell, stages, submit
from speechllm_recipes.sweep.sweep_file import read_sweep
from speechllm_recipes.sweep.table import Board, dry_run_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output_dir", metavar="OUT", type=Path, help="where the cells live, each a directory")
    parser.add_argument("--config-file", metavar="SWEEP", type=Path, required=True,
                        help="base, axes, evaluate, cascade; see docs/sweeps.md")
    parser.add_argument("--only", metavar="NAME", nargs="+", help="run these cells alone")
    parser.add_argument("--dry-run", action="store_true",
                        help="print each cell with its parameters, memory and estimated hours, and stop")
    parser.add_argument("--launcher", choices=["local", "torchrun", "slurm"], default="local",
                        help="one process, --processes of them, or a SLURM job for each cell (default: local)")
    parser.add_argument("--processes", type=int, metavar="N", help="of a cell, one a GPU (default: 1)")
    parser.add_argument("--slurm", metavar="KEY=VALUE", nargs="*", default=[],
                        help="for submitit: slurm_partition=gpu timeout_min=1440 gpus_per_node=4 ...")
    parser.add_argument("--seconds", type=float, default=6.0, help="mean clip, for --dry-run (default: 6)")
    parser.add_argument("--tflops", type=float, default=250.0,
                        help="10^12 operations a second that a GPU keeps up, for --dry-run (default: 250)")
    parser.add_argument("--no-rich", action="store_true", help="plain lines instead of a live table")


def run(options: argparse.Namespace) -> int:
    if (options.processes or 1) < 1 or (options.launcher == "local" and (options.processes or 1) > 1):
        raise UserError(f"--processes: found {options.processes} with --launcher {options.launcher}, expected at least "
                        "1, and more than 1 with torchrun or slurm")
    cells = [CellFolder(cell, options.output_dir / cell.name) for cell in read_sweep(options.config_file)]
    if options.only:
        names = [cell.cell.name for cell in cells]
        for name in options.only:
            if name not in names:
                raise UserError(f"--only: found {name!r}, expected one of {', '.join(names)}")
        cells = [cell for cell in cells if cell.cell.name in options.only]
    if options.dry_run:
        print(_dry_run(cells, options))
        return 0
    for cell in cells:
        cell.write_configuration()  # a changed configuration is reported before hours are spent on other cells
    processes = options.processes or 1
    left = [cell for cell in cells if {stage for stage, _ in stages(cell)} - cell.done()]
    if options.launcher == "slurm":
        return _submit(left, processes, options)
    return _run(cells, left, processes, options)


def _run(cells: Sequence[CellFolder], left: Sequence[CellFolder], processes: int, options: argparse.Namespace) -> int:
    failed = {}
    with Board(cells, live=not options.no_rich and sys.stdout.isatty()) as board:
        for cell in cells:
            if cell not in left:
                board.set(cell, "finished before")
        for cell in left:
            start = time.monotonic()
            board.set(cell, "running")
            reason = run_cell(cell, processes, lambda stage: board.set(cell, stage))  # noqa: B023
            minutes = (time.monotonic() - start) / 60
            board.set(cell, f"finished in {minutes:.1f} min" if reason is None else "failed")
            if reason is not None:
                failed[cell.cell.name] = reason
                board.tell(f"{cell.cell.name}: {reason}")
    print(f"{len(cells) - len(failed)} of {len(cells)} cells are finished in {options.output_dir}")
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _submit(left: Sequence[CellFolder], processes: int, options: argparse.Namespace) -> int:
    if not left:
        print("every cell is finished")
        return 0
    parameters = dict(parse_assignment(item, "--slurm") for item in options.slurm)
    jobs = submit(left, processes, options.output_dir / "slurm", parameters)
    for cell, job in zip(left, jobs, strict=True):
        print(f"{cell.cell.name}: job {job.job_id}")
    print("run the same command again to submit what is left, or with --launcher local to see what is finished")
    return 0


def _dry_run(cells: Sequence[CellFolder], options: argparse.Namespace) -> str:
    """Runs `speechllm inspect` as a program, because recipes import no tools; a cascade has no training to estimate."""
    cells = [cell for cell in cells if cell.cell.train is not None]
    if not cells:
        return "no cell is trained"
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for cell in cells:
            there = CellFolder(cell.cell, Path(folder) / cell.cell.name)
            there.write_configuration()
            files[str(there.train_file)] = cell
        result = subprocess.run(
            [sys.executable, "-m", "speechllm_tools.cli", "inspect", *files, "--json", "--seconds",
             str(options.seconds)],
            capture_output=True, text=True,
        )  # fmt: skip
        if result.returncode != 0:
            line = (result.stderr.strip() or "inspect: ended without a word").splitlines()[-1]
            for file, cell in files.items():
                line = line.replace(file, cell.cell.name)
            raise UserError(line.removeprefix("speechllm inspect: error: "))
    found: Any = json.loads(result.stdout)
    facts = list(zip(cells, found if len(cells) > 1 else [found], strict=True))
    return dry_run_table(facts, tflops=options.tflops, processes=options.processes or 1, seconds=options.seconds)
