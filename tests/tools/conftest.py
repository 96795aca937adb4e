"""A system that the tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Commands, System


@pytest.fixture(scope="session")
def trained(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a run of two steps; a test that changes it takes a copy."""
    folder = tmp_path_factory.mktemp("trained")
    config = system.write(folder / "config.yaml", regime__num_steps=2, lr_scheduler__config__num_warmup_steps=1)
    commands.recipe("train", folder / "run", "--config-file", config).ok()
    return folder / "run"
