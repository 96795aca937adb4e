"""One command server and one trained run for all tests of the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Commands, System


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    commands = Commands(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def system(tiny_whisper: Path, tiny_llm: Path, tiny_manifest: Path) -> System:
    return System(tiny_whisper, tiny_llm, tiny_manifest)


@pytest.fixture(scope="session")
def trained(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a finished run: six steps, the first two on CTC alone."""
    folder = tmp_path_factory.mktemp("trained")
    config = system.write(folder / "config.yaml", model__config_overrides__ctc__align_steps=2)
    run = folder / "a run, 50+50 % für später"  # as people name their folders
    commands.recipe("train", run, "--config-file", config).ok()
    return run
