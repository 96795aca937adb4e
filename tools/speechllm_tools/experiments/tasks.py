"""`speechllm tasks`: the demo's adapter goes on with transcripts and with answers that the LLM gives to the text."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.scoring.table import format_wer

INSTRUCTION = "What is this about? Answer in a few words: <speech>"
SYSTEMS = {"answers": 0.0, "distilled": 0.7}
"""Row of the table -> `distillation.weight`."""
_MAX_TOKENS = 32
_SPLITS = ("transcripts", "answers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{__doc__} Both systems, the demo itself and a cascade are asked about sentences that training never saw; the "
        "table tells how near their answers are to those that the LLM gives to the text. What exists is used again."
    )
    parser.add_argument("--root", type=Path, default=Path("demo"), help="folder of the demo (default: demo)")
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=SYSTEMS, default=list(SYSTEMS),
                        help=f"systems to train, of {', '.join(SYSTEMS)}; default: both")
    parser.add_argument("--answers", metavar="N", type=int, default=600, help="training clips to answer (default: 600)")
    parser.add_argument("--steps", metavar="N", type=int, default=240, help="default: 240")


def run(options: argparse.Namespace) -> int:
    for name in ("answers", "steps"):
        if getattr(options, name) < 2:
            raise UserError(f"--{name}: found {getattr(options, name)}, expected at least 2")
    root: Path = options.root
    if not (root / "run" / "checkpoints").is_dir():
        raise UserError(f"--root: found no trained system in {root}, expected what `speechllm demo` trains")
    start, folder = time.monotonic(), root / "tasks"
    folder.mkdir(exist_ok=True)
    _step("what the LLM answers to the texts")
    # Of new sentences, none of which training has.
    _answers(root, root / "data" / "test_seen.tsv", folder / "test.tsv", None)
    _answers(root, root / "data" / "train.tsv", folder / "train.tsv", options.answers)
    runs = {"transcription alone": root / "run"}
    for name in options.only:
        _step(f"training, {name}")
        runs[name] = folder / name
        _train(root, runs[name], options.steps, SYSTEMS[name])
    rows = []
    for name, trained in runs.items():
        _step(f"decoding, {name}")
        rows.append(_row(name, _evaluated(root, trained, folder / f"{trained.name}-eval")))
    _step("decoding, cascade of Whisper and the LLM")
    rows.append(_row("cascade", _cascaded(root, folder / "cascade")))
    page = _page(rows)
    write_text_atomically(folder / "tasks.md", page)
    print(f"\n{page}\ntasks done in {(time.monotonic() - start) / 60:.1f} min; the table is {folder / 'tasks.md'}")
    return 0


def _answers(root: Path, manifest: Path, output: Path, most: int | None) -> None:
    if output.is_file():
        return
    if most is not None:
        manifest = _first(manifest, most, output.with_name(f"{output.stem}.asked.tsv"))
    _tool(
        "manifest", "answer", manifest, "--llm", root / "models/smollm2-135m-instruct",
        "--instruction", INSTRUCTION, "--max-tokens", _MAX_TOKENS, "--decoding", "no_repeat_ngram_size=3",
        "--output", output,
    )  # fmt: skip


def _first(manifest: Path, most: int, output: Path) -> Path:
    """A manifest of the first rows of another."""
    header, *rows = manifest.read_text(encoding="utf-8").splitlines()
    place = header.split("\t").index("audio")
    lines = [row.split("\t") for row in rows[:most]]
    for line in lines:
        line[place] = str(manifest.parent.absolute() / line[place])
    write_text_atomically(output, "\n".join([header, *map("\t".join, lines)]) + "\n")
    return output


def _train(root: Path, run: Path, steps: int, distillation: float) -> None:
    from speechllm_tools.demo.launch import num_processes
    from speechllm_tools.demo.watch import run_recipe

    config = files("speechllm_recipes") / "configs" / "demo_tasks.yaml"
    processes = num_processes()
    run_recipe(
        "train", run, "--init-from", str(root / "run"), "--config-file", str(config), "--config",
        f"dataset.config_overrides.manifests.transcripts={root}/data/train.tsv",
        f"dataset.config_overrides.manifests.answers={root}/tasks/train.tsv",
        f"dataset.feature_cache={root}/features",
        f"trainer.grad_accumulation.num_batches={2 // processes}", f"regime.num_steps={steps}",
        f"lr_scheduler.config.num_warmup_steps={steps // 12}", f"regime.checkpoint_every_n_steps={steps}",
        f"regime.publish_metrics_every_n_steps={min(20, steps)}",
        f"model.config_overrides.distillation.weight={distillation}", processes=processes,
    )  # fmt: skip


def _evaluated(root: Path, run: Path, output: Path) -> dict[str, dict[str, Any]]:
    from speechllm_tools.demo.launch import num_processes
    from speechllm_tools.demo.watch import run_recipe

    decoding = "{no_repeat_ngram_size: 3, tokens_per_second: 0, extra_tokens: 32, no_speech_probability: null}"
    return _scored(output, lambda: run_recipe(
        "evaluate", output, "--checkpoint", str(run), "--config", *_test(root),
        f"dataset.feature_cache={root}/features", f"decoding={decoding}", processes=num_processes(),
    ))  # fmt: skip


def _cascaded(root: Path, output: Path) -> dict[str, dict[str, Any]]:
    from speechllm_tools.demo.watch import run_recipe

    return _scored(output, lambda: run_recipe(
        "cascade", output, "--config", *_test(root),
        f"recognizer.config.path={root}/models/whisper-tiny.en", f"llm.config.path={root}/models/smollm2-135m-instruct",
        "decoding={no_repeat_ngram_size: 3, tokens_per_second: 0, extra_tokens: 32}",
    ))  # fmt: skip


def _test(root: Path) -> list[str]:
    return [
        f"dataset.config_overrides.manifests.transcripts={root}/data/test_seen.tsv",
        f"dataset.config_overrides.manifests.answers={root}/tasks/test.tsv",
        f"dataset.splits=[{','.join(_SPLITS)}]",
        "dataset.batch_size=25",
    ]


def _scored(output: Path, evaluate: Callable[[], None]) -> dict[str, dict[str, Any]]:
    files_ = {split: output / split / "scores.json" for split in _SPLITS}
    if not all(file.is_file() for file in files_.values()):
        evaluate()
    return {split: json.loads(file.read_text(encoding="utf-8"))["scores"] for split, file in files_.items()}


def _row(name: str, scores: dict[str, dict[str, Any]]) -> list[str]:
    answers = scores["answers"]["answers"]
    return [
        name,
        format_wer(scores["transcripts"]["asr"]),
        *(f"{100 * answers[key]:.1f}" for key in ("exact", "f1")),
        f"{answers['chrf']:.1f}",
    ]


def _page(rows: list[list[str]]) -> str:
    columns = ["system", "WER of transcripts (%)", "same answer (%)", "token F1 (%)", "chrF"]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows])
    return f"""Answers to speech ("{INSTRUCTION}") beside what the same LLM answers to the text, for
sentences that training never saw. The LLM given the text has 100 in the last three columns.

{table}
"""


def _tool(*arguments: object) -> None:
    from speechllm_tools.cli import main

    if status := main([str(argument) for argument in arguments]):
        raise UserError(f"`speechllm {' '.join(map(str, arguments[:2]))}` ended with status {status}")


def _step(what: str) -> None:
    print(f"\n== tasks: {what}", flush=True)
