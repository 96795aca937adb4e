"""The commands of README and docs, run from the first to the last of each page on small models and clips."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speechllm_tools.cli import main

from speechllm_plugin.datasets.manifest import read_manifest
from tests.commands import Commands, System
from tests.documents import PAGES, ROOT, commands_of, examples_of, name_of
from tests.plugin.recognizer_checkpoints import write_whisper
from tests.tools.corpora.layouts import write_covost2, write_mustc

NOT_HERE = (
    "make ", "speechllm seeds", "speechllm bench", "speechllm inspect --all", "pre-commit",
    "speechllm score", "speechllm comet", "speechllm export demo/run exports/onnx",
)
"""They take minutes, several systems or a network; tests of their own run what they run."""
A_SERVER = ROOT / "docs/server.md"
"""Its example needs one; tests of their own start it."""
_BERT = {"dim": 32, "num_heads": 2, "ffn_dim": 64}
SMALL = {"mlp": {"hidden_dim": 48}, "base": {**_BERT, "num_layers": 1}, "ctc_authors": _BERT}
RESULTS = {
    "README.md": ["data/train.tsv", "runs/mine-test/test/scores.json", "runs/mine-test/test/hypotheses.tsv"],
    "docs/training.md": ["features", "runs/base/config.yaml", "runs/mine-tuned/run.json"],
    "docs/scoring.md": ["runs/mine-out/hypotheses.tsv", "runs/cascade-test/test/transcripts.tsv"],
    "docs/manifests.md": ["data/both.tsv", "data/covost2/train.json", "data/ctc.model", "data/spoken.tsv",
                          "data/test.names.tsv"],
}
"""What a page says is there in the end."""


@pytest.fixture
def place(system: System, trained: Path, tmp_path: Path) -> Path:
    """The folder that a page is read in: the demo's run, corpora, and a few clips."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/run").symlink_to(trained)
    tone = 0.3 * np.sin(np.arange(8000) / 5)
    (tmp_path / "RUN").symlink_to(trained)
    for name in ("clip.wav", "talk.flac", "talk.mp3", "voice.mp3", "note.ogg"):
        soundfile.write(tmp_path / name, tone, 16000)
    write_covost2(tmp_path / "common-voice")
    write_mustc(tmp_path / "must-c")
    sounds = ["clip.wav", "talk.flac", "voice.mp3", "note.ogg"] * 2
    rows = [f"{sound},sentence {number},{'ab'[number % 2]}" for number, sound in enumerate(sounds)]
    (tmp_path / "clips.csv").write_text("path,sentence,speaker\n" + "\n".join(rows) + "\n")
    (tmp_path / "instructions.json").write_text(json.dumps([{"instruction": "Name a colour.", "output": "Red."}]))
    (tmp_path / "names.txt").write_text("Berlin\nkitchen light\nKavanagh\nthe sister\n")
    system.write(tmp_path / "base.yaml", regime__num_steps=2, lr_scheduler__config__num_warmup_steps=1)
    return tmp_path


def with_manifests(place: Path, system: System, trained: Path) -> None:
    """What the README has made by the time that another page is read."""
    (place / "data").mkdir()
    (place / "runs").mkdir()
    (place / "runs/mine").symlink_to(trained)
    for split in ("train", "dev", "test"):
        shutil.copy(system.corpus / f"{split}.tsv", place / "data")
        for row in read_manifest(system.corpus / f"{split}.tsv"):
            shutil.copy(system.corpus / row.audio, place / "data")


def small(system: System, place: Path, words: list[str]) -> list[str]:
    """A recipe's command with models of the tests in the place of the published ones, and two steps."""
    action = words[4]
    if action == "cascade":
        recognizer = write_whisper(place / "recognizer", multilingual=True)
        return [*words, "--config", f"recognizer.config.path={recognizer}", f"llm.config.path={system.llm}",
                "decoding.extra_tokens=4"]
    if action != "train" or "--dump-config" in words:
        return [*words, "--config", "decoding.extra_tokens=4"] if action in ("evaluate", "generate") else words
    adapter = re.search(r"model\.arch=\w+\.\w+\.(\w+)", " ".join(words))
    if adapter is None and "--config-file" in words:
        return words  # the tests' own file
    keys = {
        "encoder.name": "whisper", "encoder.arch": None, "encoder.config.path": str(system.whisper),
        "encoder.config.pad_to_30s": False,
        "llm.arch": None, "llm.config.path": str(system.llm), "llm.config.dtype": "float32",
        **{f"adapter.config.{key}": value for key, value in (SMALL[adapter[1]] if adapter else {}).items()},
    }
    models = [f"model.config_overrides.{key}={json.dumps(value)}" for key, value in keys.items()]
    return [*words, "--config", *models, "regime.num_steps=2", "decoding.extra_tokens=4"]


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=name_of)
def test_each_command_does_what_it_says(
    page: Path, commands: Commands, system: System, trained: Path, place: Path
) -> None:
    if page.name != "README.md":
        with_manifests(place, system, trained)
    here = commands.at(place)
    for command in commands_of(page):
        if command.startswith(NOT_HERE):
            continue
        words = shlex.split(command.replace("--size 1000", "--size 40"))
        if words[0] == "torchrun":
            shutil.rmtree(place / "runs/base")  # one of a single process
            result = here.fairseq2(*words[5:], processes=2)
        elif words[0] == "fairseq2":
            result = here.fairseq2(*(small(system, place, words) if words[2] == "run" else words)[1:])
        else:
            result = here.speechllm(*words[1:])
        assert result.status == 0, f"{command}\n{result.output[-3000:]}"
    assert [file for file in RESULTS.get(name_of(page), ()) if not (place / file).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if examples_of(page) and page != A_SERVER], ids=name_of)
def test_the_python_examples_run(
    page: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(place)
    for command in commands_of(page):
        if command.startswith("speechllm export") and not command.startswith(NOT_HERE):
            assert main(shlex.split(command)[1:]) == 0
    for example in examples_of(page):
        exec(example, {})
    printed = capsys.readouterr().out.strip().splitlines()
    if page.name == "README.md":
        assert printed[-2].startswith("[") and printed[-1].startswith("[")


def test_pages_with_commands_are_found() -> None:
    assert sum(len(commands_of(page)) for page in PAGES) > 25
    assert ROOT / "docs/training.md" in PAGES
