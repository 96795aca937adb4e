"""COMET for real: a checkpoint of unbabel-comet's own classes, scored by our command as by theirs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from speechllm_tools.comet.packages import find_python

from speechllm_plugin.errors import UserError
from speechllm_plugin.scoring.report import Hypothesis, write_hypotheses
from tests.commands import Commands, environment
from tests.waiting import LONGEST

SEGMENTS = [
    ("der kleine Hund schläft heute", "the small cat sleeps today", "the small dog sleeps today"),
    ("die Tür ist rot", "the door is red", "the door is red"),
    ("wir lesen ein Buch", "a book we sleep red", "we read a book"),
    ("die Tür ist rot", "the door is red", "the door is red"),
    ("er geht", "", "he goes"),
    ("er geht", "goes " * 39 + "goes", "he goes"),
    ("er geht", "a dog goes", "he goes"),
]
"""Sources, translations and references. One is there twice, one is empty, and one is longer than the model reads."""
UNIQUE = (0, 1, 2, 4, 5, 6)


@pytest.fixture(scope="module")
def packages() -> Path:
    try:
        _, folder = find_python()
    except UserError as error:
        pytest.skip(str(error))
    if folder is None:
        pytest.skip("COMET has an interpreter of its own, whose transformers this test knows nothing of")
    return folder


@pytest.fixture(scope="module")
def comet(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model, with `expected.json`."""
    folder = tmp_path_factory.mktemp("comet")
    files = []
    for name, lines in zip(("sources", "translations", "references"), zip(*SEGMENTS, strict=True), strict=True):
        files.append(folder / f"{name}.txt")
        files[-1].write_text("\n".join(lines) + "\n")
    script = Path(__file__).with_name("tiny_comet.py")
    made = subprocess.run([sys.executable, str(script), str(packages), str(folder / "model"), *map(str, files)],
                          capture_output=True, text=True, env=environment(), timeout=LONGEST)
    assert made.returncode == 0, made.stderr
    return folder / "model"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = [
        Hypothesis(str(place), reference, translation, "a.wav", 1.0, "de", "en", source)
        for place, (source, translation, reference) in enumerate(SEGMENTS)
    ]
    write_hypotheses(tmp_path / "run/test/hypotheses.tsv", rows)
    return tmp_path / "run"


def score(commands: Commands, run: Path, *options: object) -> dict[str, Any]:
    found = commands.speechllm("score", run, "--metrics", "comet", "--json", "--comet-cache", run / "cache",
                               *options).ok()  # fmt: skip
    return {**json.loads(found.stdout), "stderr": found.stderr}


def check_scores(commands: Commands, run: Path, expected: list[float], precision: str, *options: object) -> None:
    options = (*options, "--precision", precision)
    found = score(commands, run, *options)
    lines = [json.loads(line) for line in next((run / "cache").glob("*.jsonl")).read_text().splitlines()[1:]]
    # Equal segments are scored once; the order is that of the rows.
    assert [line[1] for line in lines] == pytest.approx([expected[place] for place in UNIQUE], abs=1e-6)
    entry = found["systems"]["run"]["scores"]["comet"]["de-en"]
    assert entry["score"] == pytest.approx(100 * sum(expected) / len(expected), abs=1e-4)
    assert precision in entry["signature"] and "unbabel-comet:2.2.7" in entry["signature"]
    assert "7 segments, 6 of them different, 0 scored before" in found["stderr"]
    assert "de-en: 1 hypotheses are empty and were scored all the same; 1 segments hold a text" in found["stderr"]
    again = score(commands, run, *options)
    assert "6 scored before" in again["stderr"] and "scored on" not in again["stderr"]
    assert again["systems"]["run"]["scores"] == found["systems"]["run"]["scores"]


def test_scores_are_those_of_the_python_api(commands: Commands, run: Path, comet: Path) -> None:
    expected = json.loads((comet / "expected.json").read_text())["float32"]
    check_scores(commands, run, expected, "float32", "--comet", comet)


def test_a_moved_model_scores_as_comet_score_with_its_encoder_from_elsewhere(
    commands: Commands, run: Path, comet: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    (moved / "checkpoints").mkdir(parents=True)
    text = (comet / "hparams.yaml").read_text().replace(str(comet / "encoder"), "some-hub/encoder")
    (moved / "hparams.yaml").write_text(text)
    (moved / "checkpoints/model.ckpt").symlink_to(comet / "checkpoints/model.ckpt")
    error = commands.speechllm("score", run, "--metrics", "comet", "--comet", moved).user_error()
    assert "--encoder: found no folder, no local copy and no download of 'some-hub/encoder'" in error
    expected = json.loads((comet / "expected.json").read_text())["float16"]
    check_scores(commands, run, expected, "float16", "--comet", moved, "--encoder", comet / "encoder")


def test_a_checkpoint_without_all_its_weights_is_refused(
    commands: Commands, run: Path, comet: Path, tmp_path: Path
) -> None:
    """COMET's own loader would score with random ones."""
    import torch

    broken = tmp_path / "broken"
    (broken / "checkpoints").mkdir(parents=True)
    (broken / "hparams.yaml").write_text((comet / "hparams.yaml").read_text())
    content = torch.load(comet / "checkpoints/model.ckpt", weights_only=False)
    lost = [name for name in content["state_dict"] if name.startswith("estimator")]
    for name in lost:
        del content["state_dict"][name]
    torch.save(content, broken / "checkpoints/model.ckpt")
    error = commands.speechllm("score", run, "--metrics", "comet", "--comet", broken,
                               "--comet-cache", tmp_path / "cache").user_error()  # fmt: skip
    assert error == (f"COMET: {broken}/checkpoints/model.ckpt: it lacks {min(lost)} ({len(lost)} in all), expected a "
                     "whole checkpoint")  # fmt: skip


def test_a_translation_without_its_transcript_is_named(commands: Commands, run: Path, tmp_path: Path) -> None:
    write_hypotheses(run / "test/hypotheses.tsv", [Hypothesis("clip", "a", "b", "a.wav", 1.0, "de", "en")])
    error = commands.speechllm("score", run, "--metrics", "comet", "--comet", tmp_path).user_error()
    assert error.startswith("run, de-en, id clip: found no transcript, expected one")


def test_missing_packages_are_named(commands: Commands, run: Path, comet: Path, tmp_path: Path) -> None:
    result = commands.speechllm("score", run, "--metrics", "comet", "--comet", comet, "--comet-cache", tmp_path,
                                env={"SPEECHLLM_COMET": str(tmp_path / "none")})  # fmt: skip
    assert result.user_error() == (f"COMET: found no packages in {tmp_path}/none, expected them installed: "
                                   "speechllm comet install")  # fmt: skip
