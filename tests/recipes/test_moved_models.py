"""Frozen models that lie elsewhere than at the training are named by --set, whatever is done with the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands import Commands, System


@pytest.fixture
def moved(trained: Path, system: System, tmp_path: Path) -> Path:
    """A run whose LLM is gone from where it was."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for file in (run / "checkpoints/model.yaml", run / "config.yaml"):
        file.write_text(file.read_text().replace(str(system.llm), "/moved/away"))
    return run


def test_each_command_takes_where_the_models_are(commands: Commands, system: System, moved: Path) -> None:
    there = ("--set", f"llm.config.path={system.llm}", f"encoder.config.path={system.whisper}")
    manifest = ("--config", f"dataset.config_overrides.manifests.test={system.corpus / 'test.tsv'}")
    for action in ("evaluate", "generate"):
        argv = (action, moved.parent / action, "--checkpoint", moved)
        line = commands.recipe(*argv, *manifest).user_error()
        assert line.startswith("model.config_overrides.llm.config.path: no directory /moved/away")
        commands.recipe(*argv, *there, *manifest).ok()
    assert "'/moved/away'" in commands.speechllm("inspect", moved).user_error()
    commands.speechllm("inspect", moved, *there).ok()
    clip = system.corpus / "test_0.wav"
    commands.speechllm("transcribe", "--checkpoint", moved, *there, clip).ok()
    # A new run from it, by the keys of the old one.
    file = system.write(moved.parent / "config.yaml", regime__num_steps=2, lr_scheduler__config__num_warmup_steps=1)
    file.write_text(file.read_text().replace(str(system.llm), "/moved/away"))
    commands.recipe("train", moved.parent / "tuned", "--config-file", file, "--init-from", moved, *there).ok()
