"""What commands import: a refusal needs no model, and transcribing no compiler."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.commands import ROOT, Commands, System, environment
from tests.waiting import LONGEST

PROGRAM = """
import json, sys
from speechllm_tools.cli import main
try:
    status = main(sys.argv[2:])
except SystemExit as exit_:
    status = exit_.code
heavy = {"torch", "torch._dynamo", "transformers", "fairseq2", "scipy", "pandas", "sympy"}
open(sys.argv[1], "w").write(json.dumps([status, sorted(heavy & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def run(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained system of the adapter whose kernels are operators of PyTorch's."""
    folder = tmp_path_factory.mktemp("light")
    config = system.write(
        folder / "config.yaml", regime__num_steps=2, lr_scheduler__config__num_warmup_steps=1,
        model__config_overrides__adapter__name="ctc", model__config_overrides__adapter__config=None,
    )  # fmt: skip
    commands.recipe("train", folder / "run", "--config-file", config).ok()
    return folder / "run"


def imports_of(folder: Path, *arguments: object) -> tuple[int, list[str], str]:
    """Exit status, the heavy packages that were imported, and what was said."""
    command = [sys.executable, "-c", PROGRAM, folder / "found.json", *arguments]
    result = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
        timeout=LONGEST,
    )
    status, heavy = json.loads((folder / "found.json").read_text())
    return status, heavy, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "transcribe"),
        (["transcribe", "--help"], "--checkpoint"),
        (["transcribe", "--checkpoint", "nowhere", "clip.wav"], "checkpoint: found no nowhere"),
        (["ask", "--checkpoint", "nowhere", "--instruction", "hello", "clip.wav"], "checkpoint: found no nowhere"),
        (["serve", "--checkpoint", "nowhere"], "checkpoint: found no nowhere"),
        (["inspect", "whisper.gpt.mlp"], "ARCH_OR_CONFIG: found 'whisper.gpt.mlp', expected encoder.llm.adapter"),
        (["inspect", "whisper_tiny_en.smollm2_135m.mlp", "--set", "llm.nam=x"], "model.llm.nam: found an unknown key"),
        (["inspect", "lost.yaml"], "ARCH_OR_CONFIG: found no lost.yaml"),
        (["cache", "build", "--config", "dataset.bach_size=1"], "dataset.bach_size: found an unknown key"),
        (["cache", "build", "--config-file", "lost.yaml"], "--config-file: cannot read lost.yaml"),
        (["score", "lost.tsv"], "lost.tsv: found no such file"),
        (["manifest", "validate", "lost.tsv"], "lost.tsv: cannot be read"),
    ],
    ids=" ".join,
)
def test_what_needs_no_model_imports_none(arguments: Sequence[str], expected: str, tmp_path: Path) -> None:
    status, heavy, said = imports_of(tmp_path, *arguments)
    assert expected in said
    assert heavy == []
    assert status == (0 if "--help" in arguments else 2)


def test_a_wrong_file_or_value_is_told_without_torch(run: Path, tmp_path: Path) -> None:
    options = ("transcribe", "--checkpoint", run, tmp_path / "lost.wav")
    for more, expected in (
        ((), "lost.wav: found no such file"),
        (("--beam-size", "0"), "--beam-size: found 0"),
        (("--step", "7"), "found steps 2"),
    ):
        status, heavy, said = imports_of(tmp_path, *options, *more)
        assert (status, heavy) == (2, [])
        assert expected in said


def test_a_wrong_key_of_a_checkpoint_is_told_without_torch(run: Path, clip: Path, tmp_path: Path) -> None:
    commands: tuple[tuple[object, ...], ...] = (
        ("transcribe", clip, "--checkpoint", run), ("ask", "--instruction", "hello", clip, "--checkpoint", run),
        ("serve", "--checkpoint", run), ("export", run, tmp_path / "exported", "--format", "hf"),
    )  # fmt: skip
    for name, *more in commands:
        for key, expected in (
            ("encoder.nam=x", "model.encoder.nam: found an unknown key"),
            ("llm.config.pth=x", "llm.config.pth: found an unknown key, expected one of attention"),
            ("encoder.config.path=/lost/model", "encoder.config.path: no directory /lost/model"),
            ("prompt.transcribe=say {sorce}", "prompt.transcribe: found placeholder {sorce}"),
        ):
            status, heavy, said = imports_of(tmp_path, name, *more, "--set", key)
            assert expected in said, name
            assert (status, heavy) == (2, []), name


def test_a_wrong_key_of_a_file_is_told_without_torch(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("regime: {num_step: 3}")
    status, heavy, said = imports_of(tmp_path, "inspect", tmp_path / "config.yaml")
    assert "config.yaml: regime.num_step: found an unknown key" in said
    assert (status, heavy) == (2, [])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    file = tmp_path / "clip.wav"
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 300 * np.arange(16000) / 16000), 16000)
    return file


def test_transcribing_imports_no_compiler(run: Path, clip: Path, tmp_path: Path) -> None:
    status, heavy, said = imports_of(tmp_path, "transcribe", "--checkpoint", run, clip)
    assert status == 0, said
    assert heavy == ["torch", "transformers"]
