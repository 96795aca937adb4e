"""`speechllm compare`: every adapter on the demo's data with the same budget, in one table."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.scoring.table import format_wer
from speechllm_tools.demo.run import SPLITS, config_file, evaluation, paths
from speechllm_tools.demo.watch import run_recipe

_ABOUT = """\
Everything but the adapter and its learning rate is the demo's recipe. What differs from the published adapters suits a
tiny encoder and few steps: the layers are as wide as the encoder, five frames are joined first (10 Hz), and what
compresses at a fixed rate does so by 2 instead of 4 (16 for the WLQ-Former), so that every token still has a vector.
The vectors of `cif` are trained on their tokens, too (`token_weight`); `cif_published` is without this.
"""

_SIZES = {"dim": 384, "num_heads": 6, "ffn_dim": 1536}

ADAPTERS: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"name": "mlp", "config": {"stack": 1}},
    "base": {"name": "base", "config": _SIZES},
    "conv": {"name": "conv", "config": {**_SIZES, "num_convs": 1, "ctc_frames": "after"}},
    "subsample": {"name": "subsample", "config": {**_SIZES, "ratio": 2}},
    "wlq_former": {"name": "wlq_former", "config": {**_SIZES, "window_seconds": 0.2, "ctc_frames": "after"}},
    "cif": {"name": "cif", "config": {**_SIZES, "token_weight": 0.3}},
    "cif_published": {"name": "cif", "config": _SIZES},
    "ctc": {"name": "ctc", "config": _SIZES},
    "ctc_detached": {"name": "ctc", "config": {**_SIZES, "detach": True}},
}
"""Row of the table -> the adapter's section of the configuration."""

_LEARNING_RATES = {"mlp": 2e-3}
_TRANSFORMER_LEARNING_RATE = 5e-4
"""Layers with post-LayerNorm learn worse above this: after 300 steps on CTC `base` has 1.6 nats per label on dev with
5e-4 and 4.1 with 1e-3."""

_COLUMNS = (
    "adapter", "trained (M)", "learning rate", "out (Hz)", "loss", "WER seen voices (%)", "WER new voices (%)",
    "training (min)",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{__doc__}\n\n{_ABOUT}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--root", type=Path, default=Path("demo"), help="folder of the demo (default: demo)")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="the table, in Markdown")
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=ADAPTERS, default=list(ADAPTERS),
                        help=f"rows to make, of {', '.join(ADAPTERS)}; default: all")
    parser.add_argument("--align-steps", type=int, default=1200, help="steps without the LLM (default: 1200)")
    parser.add_argument("--llm-steps", type=int, default=360, help="steps on the LLM's loss (default: 360)")


def run(options: argparse.Namespace) -> int:
    """Runs that exist are reused: an interrupted comparison goes on."""
    for name in ("align_steps", "llm_steps"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}: found {getattr(options, name)}, expected at least 1")
    if not (options.root / "data" / ".completed").is_file():
        raise UserError(f"--root: found no speech in {options.root}, expected what `speechllm demo` prepares")
    if options.output.is_dir():
        raise UserError(f"--output: found a directory, {options.output}, expected a file")
    rows, folders = [], []
    for number, name in enumerate(options.only, start=1):
        print(f"\n== {number}/{len(options.only)}: {name}", flush=True)
        folder = options.root / "compare" / f"{options.align_steps}+{options.llm_steps}" / name
        _check_settings(folder, name)
        _train(options, folder, name)
        rows.append(_row(name, folder))
        folders.append(folder)
        # Written after each run, so that a later failure loses no results.
        write_text_atomically(options.output, _page(rows, folders, options))
        print(f"\n{_table(rows)}\n", flush=True)
    print(f"{len(rows)} rows written to {options.output}")
    return 0


def _learning_rate(name: str) -> float:
    return _LEARNING_RATES.get(name, _TRANSFORMER_LEARNING_RATE)


def _check_settings(folder: Path, name: str) -> None:
    """Refuses a run that was made with other settings: the table would show them beside its figures."""
    file, settings = folder / "settings.json", {"adapter": ADAPTERS[name], "lr": _learning_rate(name)}
    if file.is_file() and (found := json.loads(file.read_text())) != settings:
        raise UserError(f"{file}: found {found}, expected {settings}; remove {folder} to train it again")
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, json.dumps(settings))


def _train(options: argparse.Namespace, folder: Path, name: str) -> None:
    from speechllm_plugin.models.speech_llm.checkpoint_files import find_checkpoint

    steps = options.align_steps + options.llm_steps
    run_recipe(
        "train", folder / "run", "--config-file", str(config_file()), "--config", *paths(options.root),
        f"model.config_overrides.adapter={json.dumps(ADAPTERS[name])}", "model.config_overrides.frame_stack=5",
        f"optimizer.config.lr={_learning_rate(name)}",
        f"model.config_overrides.ctc.align_steps={options.align_steps}", f"regime.num_steps={steps}",
        "dataset.valid_splits=[]", "regime.score_metric=null", "regime.keep_best_n_checkpoints=null",
        f"regime.checkpoint_every_n_steps={steps}", f"regime.publish_metrics_every_n_steps={math.gcd(20, steps)}",
    )  # fmt: skip
    # Changes when a run is trained again.
    checkpoint = str(find_checkpoint(folder / "run", "last").model_dir.stat().st_mtime_ns)
    done = folder / "eval" / ".checkpoint"
    if not done.is_file() or done.read_text() != checkpoint:
        run_recipe(
            "evaluate", folder / "eval", "--checkpoint", str(folder / "run"), "--step", "last", "--config",
            *evaluation(options.root),
        )
        done.write_text(checkpoint)


def _row(name: str, folder: Path) -> list[str]:
    from speechllm_plugin.models.speech_llm.checkpoint import load_model
    from speechllm_plugin.models.speech_llm.checkpoint_files import find_checkpoint
    from speechllm_plugin.tensors.parameters import count_parameters

    model = load_model(find_checkpoint(folder / "run", "last"), device="cpu")
    scores = [json.loads((folder / "eval" / split / "scores.json").read_text())["scores"] for split in SPLITS]
    lines = (folder / "run" / "metrics" / "train.jsonl").read_text().splitlines()
    minutes = json.loads(lines[-1])["Total Time"] / 60
    return [
        name,
        f"{count_parameters(model) / 1e6:.2f}",
        f"{_learning_rate(name):g}",
        f"{scores[0]['speech_vectors_per_second']:.2f}",
        f"{scores[0]['nll_loss']:.3f}",
        *(format_wer(split["asr"]) for split in scores),
        f"{minutes:.1f}",
    ]


def _table(rows: list[list[str]]) -> str:
    lines = [_COLUMNS, ["---"] * len(_COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(rows: list[list[str]], folders: list[Path], options: argparse.Namespace) -> str:
    """:param folders: the rows', whose score files say what made them."""
    import torch

    split = list(SPLITS)[0]
    made = [json.loads((folder / "eval" / split / "scores.json").read_text())["provenance"] for folder in folders]
    versions = ", ".join(f"{name} {made[-1]['versions'][name]}" for name in ("torch", "fairseq2", "transformers"))
    commits = ", ".join(dict.fromkeys((each["git"] or {}).get("commit", "unknown")[:12] for each in made))
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPU cores, threads: {torch.get_num_threads()}"
    return f"""# Adapters on the embedded default

{_ABOUT}
{options.align_steps} steps on the auxiliary losses alone, then {options.llm_steps} with the LLM, in batches of 8. WER
with its 95 % bootstrap interval, on sentences that training never saw, greedy; loss per token on those by voices that
it heard. Few steps on small synthetic data, one seed: the table tells that each adapter trains, not which is best at
real size.

{_table(rows)}

    {shlex.join(["speechllm", *sys.argv[1:]])}

{made[-1]["date_utc"][:10]}, {machine}, {versions}, commit {commits}.
"""
