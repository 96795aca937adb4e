"""The core on a machine without fairseq2: a checkpoint is loaded and transcribes the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.commands import Commands, System
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


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """The commands without fairseq2."""
    commands = Commands(tmp_path_factory.mktemp("alone"), "--without-fairseq2")
    yield commands
    commands.close()


def test_a_checkpoint_transcribes_the_same(
    commands: Commands, alone: Commands, system: System, clips: list[Path], tmp_path: Path
) -> None:
    config = system.write(tmp_path / "config.yaml", regime__num_steps=4)
    commands.recipe("train", tmp_path / "run", "--config-file", config).ok()
    expected = commands.speechllm("transcribe", "--checkpoint", tmp_path / "run", *clips).ok().stdout
    assert alone.speechllm("transcribe", "--checkpoint", tmp_path / "run", *clips).ok().stdout == expected
    assert len(set(line.partition("\t")[2] for line in expected.splitlines())) == len(clips)
    # An error is the same line, too.
    (tmp_path / "run" / "checkpoints" / "step_4" / "model" / "pp_00" / "tp_00" / "sdp_00.pt").write_bytes(b"no weights")
    options = ("transcribe", "--checkpoint", tmp_path / "run", "--step", 4, clips[0])
    line = commands.speechllm(*options).user_error()
    assert alone.speechllm(*options).user_error() == line and "found a damaged file" in line


def test_training_says_what_it_needs(alone: Commands) -> None:
    line = alone.fairseq2("recipe", "list").user_error()
    assert line.startswith("found no fairseq2") and "[train]" in line


def test_all_of_the_core_can_be_imported(alone: Commands) -> None:
    core = [module for module in modules() if module.startswith("speechllm_plugin") and not in_shell(module)]
    alone.module("tests.without_fairseq2", *core).ok()
    assert "No module named 'fairseq2'" in alone.module("tests.without_fairseq2", "fairseq2").stderr
