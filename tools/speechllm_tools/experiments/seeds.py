"""`speechllm seeds`: the demo's recipe with several seeds and precisions, in one table: how far its figures move."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.scoring.table import format_wer
from speechllm_tools.demo.run import SPLITS, TARGET, config_file, evaluation, paths
from speechllm_tools.demo.watch import run_recipe

DTYPES = ("bfloat16", "float32")

_COLUMNS = ("precision", "seed", "loss", "WER seen voices (%)", "WER new voices (%)", "loops", "training (min)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--root", type=Path, default=Path("demo"), help="folder of the demo (default: demo)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], metavar="N",
                        help="of weights, batches and dropout (default: 1 2 3 4 5); the data stays the same")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="default: both")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="the table, in Markdown")


def run(options: argparse.Namespace) -> int:
    """Reuses existing runs: an interrupted call is continued, and a call with more seeds adds to the table."""
    if not (options.root / "data" / ".completed").is_file():
        raise UserError(f"--root: found no speech in {options.root}, expected what `speechllm demo` prepares")
    if options.output.is_dir():
        raise UserError(f"--output: found a directory, {options.output}, expected a file")
    folders = []
    for dtype in options.dtypes:
        for seed in options.seeds:
            print(f"\n== {dtype}, seed {seed}", flush=True)
            folder = options.root / "seeds" / dtype / str(seed)
            _train(options.root, folder, dtype, seed)
            folders.append(folder)
            # The page is written after each run, so that a later failure loses no results.
            write_text_atomically(options.output, _page(folders))
    print(f"\n{_table(folders)}\n\n{len(folders)} rows written to {options.output}")
    return 0


def _train(root: Path, folder: Path, dtype: str, seed: int) -> None:
    if (folder / "eval" / ".completed").is_file():
        return
    run_recipe(
        "train", folder / "run", "--config-file", str(config_file()), "--config", *paths(root),
        f"common.seed={seed}", f"model.config_overrides.encoder.config.dtype={dtype}",
        f"model.config_overrides.llm.config.dtype={dtype}", f"trainer.mixed_precision.dtype={dtype}",
        # The demo validates once, at its end.
        "dataset.valid_splits=[]", "regime.score_metric=null", "regime.keep_best_n_checkpoints=null",
    )  # fmt: skip
    run_recipe("evaluate", folder / "eval", "--checkpoint", str(folder / "run"), "--config", *evaluation(root))
    (folder / "eval" / ".completed").touch()


def _scores(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / "eval" / split / "scores.json").read_text()) for split in SPLITS]


def _row(folder: Path) -> list[str]:
    scores = [document["scores"] for document in _scores(folder)]
    lines = (folder / "run" / "metrics" / "train.jsonl").read_text().splitlines()
    return [
        folder.parent.name,
        folder.name,
        f"{scores[0]['nll_loss']:.3f}",
        *(format_wer(one["asr"], 2) for one in scores),
        " + ".join(str(one["looping_hypotheses"]) for one in scores),
        f"{json.loads(lines[-1])['Total Time'] / 60:.1f}",
    ]


def _table(folders: Sequence[Path]) -> str:
    rows = [_COLUMNS, ["---"] * len(_COLUMNS), *map(_row, folders)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _summary(folders: Sequence[Path]) -> str:
    lines = []
    for number, (split, description) in enumerate(SPLITS.items()):
        wers = [100 * _scores(folder)[number]["scores"]["asr"]["wer"] for folder in folders]
        lines.append(
            f"- {description}: {min(wers):.2f} to {max(wers):.2f} %, mean {statistics.mean(wers):.2f}; the demo "
            f"expects at most {TARGET[split]:g}"
        )
    return "\n".join(lines)


def _page(folders: Sequence[Path]) -> str:
    made = [document["provenance"] for folder in folders for document in _scores(folder)]
    versions = ", ".join(f"{name} {made[-1]['versions'][name]}" for name in ("torch", "fairseq2", "transformers"))
    commits = ", ".join(dict.fromkeys((each["git"] or {}).get("commit", "unknown")[:12] for each in made))
    cpus = len(os.sched_getaffinity(0))
    threads = os.environ.get("OMP_NUM_THREADS", cpus)
    return f"""# The demo with other seeds and in other precisions

The demo's recipe and data, trained with other seeds of weights, batches and dropout. WER with its 95 % bootstrap
interval on the two test sets of the demo, greedy; loops are hypotheses of so many repetitions that zlib shrinks them
2.4 times (of the first set and of the second).

{_summary(folders)}

{_table(folders)}

    {shlex.join(["speechllm", *sys.argv[1:]])}

{made[-1]["date_utc"][:10]}, {platform.machine()}, {cpus} CPU cores, threads: {threads}, {versions}, commit {commits}.
"""
