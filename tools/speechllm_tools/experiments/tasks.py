"""`speechllm tasks`: the demo's adapter goes on with transcripts, with answers that the LLM gives to the text, and with
lists of names."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_tools.experiments.names import TEST, TRAIN, write_names
from speechllm_tools.experiments.tasks_table import CONDITIONS, row, table

INSTRUCTION = "What is this about? Answer in a few words: <speech>"
UNSEEN = "Write a short title for this request: <speech>"
"""Asked in the test alone."""
SYSTEMS = {"answers": 0.0, "distilled": 0.7}
"""Row of the table -> `distillation.weight`."""
DISTRACTORS = 20
_TRAINED_DISTRACTORS = 6
_LISTS = {"names_alone": 0, "names_among": DISTRACTORS}
"""Test split -> names in its lists beside those that are said."""
_HEARD, _LIKELIEST = "names_heard", 10
"""Test split whose lists hold so many names, of all, as the demo's CTC head finds the likeliest (arXiv 2411.06437)."""
_MAX_TOKENS = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The demo's adapter goes on with transcripts, with answers that the LLM gives to the text, and with lists of "
        "names. Two systems that it becomes, the demo itself and a cascade are asked about sentences that training "
        "never saw; the table tells how near their answers are to those that the LLM gives to the text, and how well "
        "they spell rare names with and without a list. What exists is used again, also after a kill; other numbers "
        "than it was made with are refused."
    )
    parser.add_argument("--root", type=Path, default=Path("demo"), help="folder of the demo (default: demo)")
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=SYSTEMS, default=list(SYSTEMS),
                        help=f"systems to train, of {', '.join(SYSTEMS)}; default: both")
    parser.add_argument("--answers", metavar="N", type=int, default=600, help="training clips to answer (default: 600)")
    parser.add_argument("--names", metavar="N", type=int, default=600,
                        help="training clips with names in them (default: 600)")
    parser.add_argument("--tested", metavar="N", type=int, default=100,
                        help="clips of each test (default: 100)")
    parser.add_argument("--steps", metavar="N", type=int, default=300, help="default: 300")


def run(options: argparse.Namespace) -> int:
    for name, least in (("answers", 2), ("names", 2), ("tested", 2), ("steps", 3)):
        if getattr(options, name) < least:
            raise UserError(f"--{name}: found {getattr(options, name)}, expected at least {least}")
    root: Path = options.root
    if not (root / "run" / "checkpoints").is_dir():
        raise UserError(f"--root: found no trained system in {root}, expected what `speechllm demo` trains")
    start, folder = time.monotonic(), root / "tasks"
    _check_same(root / "data", folder, options)
    folder.mkdir(exist_ok=True)
    _step("what the LLM answers to the texts")
    # Of new sentences, none of which training has.
    new = _first(root / "data" / "test_seen.tsv", options.tested, folder / "test.asked.tsv")
    _answers(root, new, folder / "test.tsv", INSTRUCTION)
    _answers(root, new, folder / "unseen.tsv", UNSEEN)
    asked = _first(root / "data" / "train.tsv", options.answers, folder / "train.asked.tsv")
    _answers(root, asked, folder / "train.tsv", INSTRUCTION)
    _step("requests with rare names")
    names = write_names(folder / "names", {TRAIN: options.names, TEST: options.tested})
    _lists(folder / "names/train.tsv", names[TRAIN], _TRAINED_DISTRACTORS, folder / "names_train.tsv")
    for split, distractors in _LISTS.items():
        _lists(folder / "names/test.tsv", names[TEST], distractors, folder / f"{split}.tsv")
    _lists(folder / "names/test.tsv", names[TEST], 0, folder / f"{_HEARD}.tsv", first_pass=root / "run")
    runs = {"transcription alone": root / "run"}
    for name in options.only:
        _step(f"training, {name}")
        runs[name] = folder / name
        _train(root, runs[name], options.steps, SYSTEMS[name])
    rows = []
    for name, trained in runs.items():
        _step(f"decoding, {name}")
        output = folder / f"{trained.name}-eval"
        splits = ("transcripts", "answers", "unseen", *CONDITIONS)
        scores = _scored(output, splits, lambda: _evaluate(root, trained, output, splits))  # noqa: B023
        rows.append(row(name, scores, _spelt(output, list(CONDITIONS), names[TEST])))
    _step("decoding, cascade of Whisper and the LLM")
    output, splits = folder / "cascade", ("transcripts", "answers", "unseen", "names")
    # Its recogniser takes no list.
    scores = _scored(output, splits, lambda: _cascade(root, output, splits))
    rows.append(row("cascade", scores, _spelt(output, ("names",), names[TEST])))
    page = _page(table(rows))
    write_text_atomically(folder / "tasks.md", page)
    print(f"\n{page}\ntasks done in {(time.monotonic() - start) / 60:.1f} min; the table is {folder / 'tasks.md'}")
    return 0


def _check_same(data: Path, folder: Path, options: argparse.Namespace) -> None:
    """What an earlier call has made is used again, and trainings and scores hang on it: the numbers must be the same.

    :raises UserError: one is another.
    """
    asked = {"test": ("tested", "test_seen"), "train": ("answers", "train")}
    made: list[tuple[str, Path, int, int]] = []
    for name, (option, split) in asked.items():
        if (file := folder / f"{name}.json").is_file():
            wanted = len(_rows(data / f"{split}.tsv")[1 : 1 + getattr(options, option)])
            made.append((option, file, wanted, _record(file)["rows"]["read"]))
    for name, option in (("names_train", "names"), *((name, "tested") for name in _LISTS)):
        if (file := folder / f"{name}.json").is_file():
            made.append((option, file, getattr(options, option), _record(file)["phrases"]["rows"]))
    for name in options.only:
        if (file := folder / name / "config.yaml").is_file():
            made.append(("steps", file, options.steps, parse_yaml(file.read_text("utf-8"))["regime"]["num_steps"]))
    for option, file, wanted, found in made:
        if wanted != found:
            raise UserError(
                f"--{option}: found {getattr(options, option)}, expected {found}, as {file} has it from an earlier "
                f"call; without {folder} all is made anew"
            )


def _record(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _rows(manifest: Path) -> list[str]:
    """With the header."""
    return manifest.read_text(encoding="utf-8").splitlines()


def _answers(root: Path, manifest: Path, output: Path, instruction: str) -> None:
    if not output.is_file():
        _tool(
            "manifest", "answer", manifest, "--llm", root / "models/smollm2-135m-instruct",
            "--instruction", instruction, "--max-tokens", _MAX_TOKENS, "--decoding", "no_repeat_ngram_size=3",
            "--batch-size", 64, "--output", output,
        )  # fmt: skip


def _lists(manifest: Path, names: Path, distractors: int, output: Path, *, first_pass: Path | None = None) -> None:
    """:param first_pass: a run that hears the names; None = the rows' own names are known."""
    chosen = ("--first-pass", first_pass, "--top", _LIKELIEST) if first_pass else ("--distractors", distractors)
    if not output.is_file():
        _tool("manifest", "phrases", manifest, "--list", names, *chosen, "--output", output)


def _first(manifest: Path, most: int, output: Path) -> Path:
    """A manifest of the first rows of another."""
    header, *rows = _rows(manifest)
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
    third = max(1, steps // 3)  # of the training is what a kill costs
    publish = min(20, third)
    # Beside a list of names the LLM does not repeat what it is shown.
    taught = [f"model.config_overrides.distillation.{key}" for key in (f"weight={distillation}", "tasks=[answer]")]
    run_recipe(
        "train", run, "--init-from", str(root / "run"), "--config-file", str(config), "--config",
        f"dataset.config_overrides.manifests.transcripts={root}/data/train.tsv",
        f"dataset.config_overrides.manifests.answers={root}/tasks/train.tsv",
        f"dataset.config_overrides.manifests.names={root}/tasks/names_train.tsv",
        f"dataset.feature_cache={root}/features",
        f"trainer.grad_accumulation.num_batches={2 // processes}", f"regime.num_steps={steps}",
        f"lr_scheduler.config.num_warmup_steps={steps // 12}",
        f"regime.checkpoint_every_n_steps={publish * max(1, third // publish)}",
        f"regime.publish_metrics_every_n_steps={publish}",
        *(taught if distillation else ()), processes=processes,
    )  # fmt: skip


def _evaluate(root: Path, run: Path, output: Path, splits: Sequence[str]) -> None:
    from speechllm_tools.demo.launch import num_processes
    from speechllm_tools.demo.watch import run_recipe

    decoding = "{no_repeat_ngram_size: 3, tokens_per_second: 0, extra_tokens: 48, no_speech_probability: null}"
    run_recipe(
        "evaluate", output, "--checkpoint", str(run), "--config", *_test(root, splits),
        f"dataset.feature_cache={root}/features", f"decoding={decoding}", processes=num_processes(),
    )  # fmt: skip


def _cascade(root: Path, output: Path, splits: Sequence[str]) -> None:
    from speechllm_tools.demo.watch import run_recipe

    run_recipe(
        "cascade", output, "--config", *_test(root, splits),
        f"recognizer.config.path={root}/models/whisper-tiny.en", f"llm.config.path={root}/models/smollm2-135m-instruct",
        "decoding={no_repeat_ngram_size: 3, tokens_per_second: 0, extra_tokens: 48}",
    )  # fmt: skip


def _test(root: Path, splits: Sequence[str]) -> list[str]:
    own = {"transcripts": "tasks/test.asked.tsv", "answers": "tasks/test.tsv", "names": "tasks/names/test.tsv"}
    manifests = {split: root / own.get(split, f"tasks/{split}.tsv") for split in splits}
    return [
        *(f"dataset.config_overrides.manifests.{split}={file}" for split, file in manifests.items()),
        f"dataset.splits=[{','.join(splits)}]",
        "dataset.batch_size=50",
    ]


def _scored(output: Path, splits: Sequence[str], decode: Callable[[], None]) -> dict[str, dict[str, Any]]:
    files_ = {split: output / split / "scores.json" for split in splits}
    if not all(file.is_file() for file in files_.values()):
        decode()
    return {split: _record(file)["scores"] for split, file in files_.items()}


def _spelt(output: Path, splits: Sequence[str], names: Path) -> dict[str, dict[str, float]]:
    """Of each test of names, its error rates by `wer`, `b_wer` and `u_wer`."""
    file, metrics = output / "names.json", ("wer", "b_wer", "u_wer")
    runs = [f"{split}={output / split / 'hypotheses.tsv'}" for split in splits]
    _tool("score", *runs, "--phrases", names, "--metrics", *metrics, "--normalizers", "basic", "--output", file)
    systems = _record(file)["systems"]
    return {
        split: {metric: systems[split]["scores"][f"{metric}:basic"]["en"]["score"] for metric in metrics}
        for split in splits
    }


def _page(answers: str) -> str:
    return f"""Requests that training never saw, to be transcribed, to be answered ("{INSTRUCTION}"), and
under an instruction that no training had ("{UNSEEN}"). The LLM given the text has 100 in the
columns of answers. Names: invented ones, apart from those of the training; error rates in percent of all words, of
the names (B) and of the others (U): without a list, with a list of the names that are said, with {DISTRACTORS} others
in it, and with the {_LIKELIEST} of all 100 names that the demo's CTC head hears, right or not.

{answers}
"""


def _tool(*arguments: object) -> None:
    from speechllm_tools.cli import main

    if status := main([str(argument) for argument in arguments]):
        raise UserError(f"`speechllm {' '.join(map(str, arguments[:2]))}` ended with status {status}")


def _step(what: str) -> None:
    print(f"\n== tasks: {what}", flush=True)
