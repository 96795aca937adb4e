"""One trained run for all tests of the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Commands, System


@pytest.fixture(scope="session")
def trained(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a finished run: six steps, the first two on CTC alone."""
    folder = tmp_path_factory.mktemp("trained")
    config = system.write(folder / "config.yaml", model__config_overrides__ctc__align_steps=2)
    run = folder / "a run, 50+50 % für später"  # as people name their folders
    commands.recipe("train", run, "--config-file", config).ok()
    return run
