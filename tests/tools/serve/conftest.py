"""A server over a tiny system, and what it is asked."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from tests.commands import Commands, System
from tests.conftest import SENTENCES

if TYPE_CHECKING:
    from tests.tools.serve.serving import Server


@pytest.fixture(scope="session")
def second(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system of other texts."""
    folder = tmp_path_factory.mktemp("trained")
    config = system.write(folder / "config.yaml", regime__num_steps=2, common__seed=5,
                          lr_scheduler__config__num_warmup_steps=1)  # fmt: skip
    commands.recipe("train", folder / "second", "--config-file", config).ok()
    return folder / "second"


@pytest.fixture(scope="session")
def server(trained: Path, second: Path) -> Iterator[Server]:
    from tests.tools.serve.serving import Server

    limits = ("--max-megabytes", "2", "--max-minutes", "2", "--max-requests", "20")
    server = Server(trained, "--model-name", "tiny", "--model-name", "whisper-1", "--beside", str(second), *limits)
    yield server
    status = server.end()
    assert status == -signal.SIGTERM, "".join(server.log)
    assert "Traceback" not in "".join(server.log)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from tests.speech import RATE, speak

    folder = tmp_path_factory.mktemp("clips")
    files = []
    for number, clip in enumerate(speak(SENTENCES)):
        files.append(folder / f"{number}.{('wav', 'mp3', 'flac', 'ogg')[number % 4]}")
        soundfile.write(files[-1], clip, RATE)
    return files


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.speech import RATE, silence, speak

    file = tmp_path_factory.mktemp("talk") / "talk.flac"
    parts = [part for clip in speak(SENTENCES) for part in (clip, silence(3.0))]
    soundfile.write(file, np.concatenate(parts), RATE)
    return file


@pytest.fixture(scope="session")
def texts(trained: Path, clips: list[Path]) -> list[str]:
    """What the system itself makes of the clips."""
    from speechllm_plugin.inference.transcriber import load_speech_llm

    return [" ".join(text.split()) for text in load_speech_llm(trained, device="cpu").transcribe(clips)]
