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
        list(map(str, command)), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    status, heavy = json.loads((folder / "found.json").read_text())
    return status, heavy, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "transcribe"),
        (["transcribe", "--help"], "--checkpoint"),
        (["transcribe", "--checkpoint", "nowhere", "clip.wav"], "checkpoint: found no nowhere"),
    ],
    ids=["help", "help of a command", "no checkpoint"],
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


def test_transcribing_imports_no_compiler(run: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, 0.3 * np.sin(2 * np.pi * 300 * np.arange(16000) / 16000), 16000)
    status, heavy, said = imports_of(tmp_path, "transcribe", "--checkpoint", run, clip)
    assert status == 0, said
    assert heavy == ["torch", "transformers"]
