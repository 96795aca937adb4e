"""`speechllm demo`: the main job on small real models, on CPU, offline: prepare, train, evaluate, show.

Training and evaluation are the ordinary recipe on an ordinary manifest. Whatever exists already is reused: a second
run prints the results again, an interrupted one goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError

SPLITS = {"test_seen": "unseen sentences, voices heard in training", "test_unseen": "unseen sentences, new voices"}
TARGET = {"test_seen": 5.0, "test_unseen": 10.0}
"""WER (%) that the demo is expected to reach."""
FAILED = 15.0
"""WER (%) on voices heard in training above which something is broken."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, default=Path("demo"), help="folder of everything (default: demo)")


def run(options: argparse.Namespace) -> int:
    start = time.monotonic()
    root: Path = options.root
    _step("1/3", "models and speech")
    from speechllm_tools.demo.prepare import main as prepare

    status = prepare(["--root", str(root)])
    if status:
        return status
    _step("2/3", f"training {root / 'run'} (an interrupted run goes on where it was)")
    run_recipe("train", root / "run", "--config-file", str(config_file()), "--config", *paths(root))
    _step("3/3", "decoding sentences that training never saw")
    _evaluate(root)
    return _report(root, time.monotonic() - start)


def config_file() -> Path:
    return Path(str(files("speechllm_recipes") / "configs" / "demo.yaml"))


def paths(root: Path) -> list[str]:
    """The configuration names demo/...; another root is another prefix."""
    return [
        f"model.config_overrides.encoder.config.path={root}/models/whisper-tiny.en",
        f"model.config_overrides.llm.config.path={root}/models/smollm2-135m-instruct",
        f"dataset.config_overrides.manifests.train={root}/data/train.tsv",
        f"dataset.config_overrides.manifests.dev={root}/data/dev.tsv",
        f"dataset.feature_cache={root}/features",
    ]


def evaluation(root: Path) -> list[str]:
    """What the two test splits are decoded with."""
    manifests = [f"dataset.config_overrides.manifests.{split}={root}/data/{split}.tsv" for split in SPLITS]
    return [
        *manifests,
        f"dataset.splits=[{','.join(SPLITS)}]",
        "dataset.batch_size=25",
        f"dataset.feature_cache={root}/features",
    ]


def _evaluate(root: Path) -> None:
    from speechllm_plugin.models.speech_llm.checkpoint import find_checkpoint

    checkpoint = find_checkpoint(root / "run")
    done = root / "eval" / ".checkpoint"
    if done.is_file() and done.read_text() == checkpoint.name:
        print(f"  {root / 'eval'} has the scores of {checkpoint.name} already", flush=True)
        return
    run_recipe("evaluate", root / "eval", "--checkpoint", str(root / "run"), "--config", *evaluation(root))
    done.write_text(checkpoint.name)


def run_recipe(action: str, output_dir: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "speechllm_recipes", "recipe", "run", "speech_llm", action, str(output_dir)]
    if not sys.stdout.isatty():
        command.append("--no-rich")
    status = subprocess.run([*command, *arguments]).returncode
    if status:
        raise UserError(f"`{action}` ended with status {status}; its log is {output_dir}/logs/rank_0.log")


def _report(root: Path, seconds: float) -> int:
    from speechllm_plugin.scoring.report import read_hypotheses
    from speechllm_plugin.scoring.table import format_table, format_wer

    scores = {split: _scores(root / "eval" / split / "scores.json") for split in SPLITS}
    rows = read_hypotheses(root / "eval" / "test_seen" / "hypotheses.tsv")
    print("\n" + format_table(rows, 5) + "\n")
    for split, description in SPLITS.items():
        print(f"WER (%) {format_wer(scores[split]['asr'], 2)}  (expected <= {TARGET[split]:g})  "
              f"{scores[split]['utterances']} {description}")
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
    return 1 if failed else 0


def _scores(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())["scores"]


def _step(number: str, what: str) -> None:
    print(f"\n== demo {number}: {what}", flush=True)
