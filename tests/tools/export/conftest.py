"""A run whose LLM has trained updates, and clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.commands import Commands, System


@pytest.fixture(scope="session")
def tuned(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a run of four steps."""
    folder = tmp_path_factory.mktemp("tuned")
    config = system.write(
        folder / "config.yaml", regime__num_steps=4, lr_scheduler__config__num_warmup_steps=1,
        model__config_overrides__encoder__config__dtype="float32",
        model__config_overrides__llm_tuning={"lora_rank": 2, "lora_alpha": 64.0, "lora_targets": ["*.[qv]_proj"]},
    )  # fmt: skip
    commands.recipe("train", folder / "run", "--config-file", config).ok()
    return folder / "run"


@pytest.fixture(scope="session")
def clips() -> list[np.ndarray]:
    """Tones of their own length and height."""
    return [
        (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(16000 * seconds)) / 16000)).astype(np.float32)
        for hertz, seconds in ((220, 0.9), (410, 0.4), (530, 1.7), (700, 1.1))
    ]
