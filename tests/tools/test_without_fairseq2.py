"""The core on a machine without fairseq2: a checkpoint is loaded and transcribes the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.commands import ROOT, Commands, System, environment
from tests.imports import modules
from tests.test_imports import in_shell


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    files = [folder / f"{number}.flac" for number in range(3)]
    for number, file in enumerate(files):
        times = np.arange(16000 * (number + 1) // 3) / 16000
        soundfile.write(file, 0.3 * np.sin(2 * np.pi * (300 + 250 * number) * times), 16000)
    return files


def alone(*argv: object, program: str = "") -> subprocess.CompletedProcess[str]:
    """`speechllm`, or a program of one's own, without fairseq2."""
    start = ["-c", f"import tests.without_fairseq2\n{program}"] if program else ["-m", "tests.without_fairseq2"]
    return subprocess.run(
        [sys.executable, *start, *map(str, argv)], env=environment(), cwd=ROOT, capture_output=True, text=True
    )


def test_a_checkpoint_transcribes_the_same(
    commands: Commands, system: System, clips: list[Path], tmp_path: Path
) -> None:
    config = system.write(tmp_path / "config.yaml", regime__num_steps=4)
    commands.recipe("train", tmp_path / "run", "--config-file", config).ok()
    expected = commands.speechllm("transcribe", "--checkpoint", tmp_path / "run", *clips).ok().stdout
    found = alone("transcribe", "--checkpoint", tmp_path / "run", *clips)
    assert found.returncode == 0, found.stderr
    assert found.stdout == expected
    assert len(set(line.partition("\t")[2] for line in expected.splitlines())) == len(clips)
    # An error is the same line, too.
    (tmp_path / "run" / "checkpoints" / "step_4" / "model" / "pp_00" / "tp_00" / "sdp_00.pt").write_bytes(b"no weights")
    options = ("transcribe", "--checkpoint", tmp_path / "run", "--step", 4, clips[0])
    lines = [commands.speechllm(*options).user_error(), alone(*options).stderr.splitlines()[-1]]
    assert lines[1] == f"speechllm transcribe: error: {lines[0]}"
    assert "found a damaged file" in lines[0]


def test_training_says_what_it_needs() -> None:
    program = "from speechllm_recipes.cli import main\nimport sys\nsys.exit(main(['recipe', 'list']))"
    found = alone(program=program)
    assert found.returncode == 2
    assert found.stderr.startswith("fairseq2: error: found no fairseq2") and "[train]" in found.stderr


def test_all_of_the_core_can_be_imported() -> None:
    core = [module for module in modules() if module.startswith("speechllm_plugin") and not in_shell(module)]
    program = f"import importlib\nfor name in {core!r}:\n    importlib.import_module(name)"
    found = alone(program=program)
    assert found.returncode == 0, found.stderr
    assert alone(program="import fairseq2").returncode == 1
