"""`speechllm demo`: the main job on small real models, on CPU, offline: prepare, train, evaluate, show.

Training and evaluation are the ordinary recipe on an ordinary manifest. Files that exist are used again: a second run
prints the results again, and an interrupted one goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm_tools.progress import ProgressLine, duration

if TYPE_CHECKING:
    from speechllm_tools.demo.pace import Pace

SPLITS = {"test_seen": "unseen sentences, voices heard in training", "test_unseen": "unseen sentences, new voices"}
TARGET = {"test_seen": 5.0, "test_unseen": 10.0}
"""WER (%) that the demo should reach; see benchmarks/results/demo-seeds.md."""
_BATCHES = 2
"""Batches of a training step, divided among the processes."""
FAILED = 15.0
"""WER (%) on voices heard in training above which something is broken."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, default=Path("demo"), help="folder of everything (default: demo)")


def run(options: argparse.Namespace) -> int:
    # Imported here, so that `speechllm demo --help` answers at once without torch and transformers.
    from speechllm_tools.demo.data import DataConfig
    from speechllm_tools.demo.launch import num_processes
    from speechllm_tools.demo.pace import measure
    from speechllm_tools.demo.prepare import main as prepare
    from speechllm_tools.demo.watch import TrainingProgress, run_recipe

    start = time.monotonic()
    root: Path = options.root
    pace, sizes = measure(), DataConfig()
    training = TrainingProgress(root / "run", config_file(), sizes.train, pace)
    decoding = pace.decoded_clip * (sizes.test_seen + sizes.test_unseen)
    if not (root / "eval" / ".checkpoint").is_file():
        print(_forecast(pace, sizes.num_clips * pace.speech_clip, training.total_seconds, decoding), flush=True)
    _step("1/3", "models and speech")
    if status := prepare(["--root", str(root)]):
        return status
    _step("2/3", f"training {root / 'run'} (an interrupted run goes on where it was)")
    with ProgressLine("training,") as line:
        run_recipe(
            "train", root / "run", "--config-file", str(config_file()), "--config", *paths(root),
            f"trainer.grad_accumulation.num_batches={_BATCHES // num_processes()}", processes=num_processes(),
            watch=lambda: line.update(*training.state()),
        )  # fmt: skip
    _step("3/3", "decoding sentences that training never saw")
    _evaluate(root, decoding)
    return _report(root, time.monotonic() - start)


def _forecast(pace: Pace, speaking: float, training: float, decoding: float) -> str:
    """:param speaking: seconds of this part, as of the other two; loading and converting models is added to them."""
    parts = {"models and speech": 40 + speaking, "training": training, "decoding": 15 + decoding}
    listed = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items())
    return f"expected on this machine ({pace}): {duration(sum(parts.values()))}: {listed}"


def config_file() -> Path:
    return Path(str(files("speechllm_recipes") / "configs" / "demo.yaml"))


def paths(root: Path) -> list[str]:
    """Overrides of the configuration's paths, which begin with demo/, for another root."""
    return [
        f"model.config_overrides.encoder.config.path={root}/models/whisper-tiny.en",
        f"model.config_overrides.llm.config.path={root}/models/smollm2-135m-instruct",
        f"dataset.config_overrides.manifests.train={root}/data/train.tsv",
        f"dataset.config_overrides.manifests.dev={root}/data/dev.tsv",
        f"dataset.feature_cache={root}/features",
    ]


def evaluation(root: Path) -> list[str]:
    """Options for decoding the two test splits."""
    manifests = [f"dataset.config_overrides.manifests.{split}={root}/data/{split}.tsv" for split in SPLITS]
    return [
        *manifests,
        f"dataset.splits=[{','.join(SPLITS)}]",
        "dataset.batch_size=25",
        f"dataset.feature_cache={root}/features",
    ]


def _evaluate(root: Path, expected_seconds: float) -> None:
    from speechllm_plugin.models.speech_llm.checkpoint_files import find_checkpoint
    from speechllm_tools.demo.launch import num_processes
    from speechllm_tools.demo.watch import TimedProgress, run_recipe

    checkpoint = find_checkpoint(root / "run")
    done = root / "eval" / ".checkpoint"
    if done.is_file() and done.read_text() == checkpoint.name:
        print(f"  {root / 'eval'} has the scores of {checkpoint.name} already", flush=True)
        return
    with ProgressLine("decoding") as line:
        elapsed = TimedProgress(expected_seconds)
        run_recipe(
            "evaluate", root / "eval", "--checkpoint", str(root / "run"), "--config", *evaluation(root),
            processes=num_processes(), watch=lambda: line.update(*elapsed.state()),
        )  # fmt: skip
    done.write_text(checkpoint.name)


def _report(root: Path, seconds: float) -> int:
    from speechllm_plugin.scoring.report import read_hypotheses
    from speechllm_plugin.scoring.table import format_table, format_wer

    scores = {split: _scores(root / "eval" / split / "scores.json") for split in SPLITS}
    rows = read_hypotheses(root / "eval" / "test_seen" / "hypotheses.tsv")
    print("\n" + format_table(rows, 5) + "\n")
    above = []
    for split, description in SPLITS.items():
        print(f"WER (%) {format_wer(scores[split]['asr'], 2)}  (expected <= {TARGET[split]:g})  "
              f"{scores[split]['utterances']} {description}")
        if (wer := 100 * scores[split]["asr"]["wer"]) > TARGET[split]:
            above.append(f"{wer:.2f} % on {description} (expected at most {TARGET[split]:g} %)")
    seen = scores["test_seen"]
    own, other = seen["nll_loss"], seen["other_audio_loss"]
    verdict = "it listens" if other > 2 * own else "it does not listen"
    print(f"loss {own:.3f} with each clip's own audio, {other:.3f} with another clip's: {verdict}")
    print(f"decoding took {seen['rtf']:.3f} s per second of audio (real-time factor) in batches of 25")
    print(
        "The domain is small and the speech synthetic (espeak-ng): sentences are new, their words and patterns are "
        "not.\nThese figures tell that the system works, not how it would do on people."
    )
    print(f"""
Go on from here:
  speechllm transcribe --checkpoint {root}/run {root}/data/{rows[0].source}
  fairseq2 recipe run speech_llm generate {root}/generated --checkpoint {root}/run \\
      --config dataset.split=dev dataset.config_overrides.manifests.dev={root}/data/dev.tsv
  tensorboard --logdir {root}/run/tb
  fairseq2 recipe run speech_llm train --dump-config      # every key of a run of your own
(after `. .venv/bin/activate`)""")
    failed = 100 * seen["asr"]["wer"] > FAILED
    print(f"\ndemo {'FAILED' if failed else 'done'} in {seconds / 60:.1f} min")
    if above:
        print(f"WER is above what is expected: {'; '.join(above)}. Something differs from the machines where it was "
              f"measured (benchmarks/results/demo-seeds.md); the log is {root}/run/logs/rank_0.log")
    return 1 if failed else 0


def _scores(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())["scores"]


def _step(number: str, what: str) -> None:
    print(f"\n== demo {number}: {what}", flush=True)
