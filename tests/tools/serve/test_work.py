"""A recording's pieces on their way through the engine."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("silero_vad")

from speechllm_tools.serve.engine import Engine
from speechllm_tools.serve.ways import Decoder, Transcribing
from speechllm_tools.serve.work import Work

from speechllm_plugin.datasets.audio import resolve
from speechllm_plugin.recordings.cutting import CutConfig
from speechllm_plugin.recordings.hearing import Hearing
from tests.tools.serve.test_engine import system_of

if TYPE_CHECKING:
    from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig


def test_a_streams_first_words_have_no_neighbours_of_their_own(tiny_config: SpeechLlmConfig, talk: Path) -> None:
    sizes: list[int] = []
    engine = Engine(16, sizes.append)
    begin = partial(Decoder, system_of(tiny_config, "float32"), "en")
    hearing = Hearing(resolve(str(talk), Path()), 2.0, CutConfig())
    work = Work(hearing, Transcribing("en", None, timed=False), begin, engine, 32)

    async def at_the_first_words() -> list[int]:
        await work.begin()
        found = [list(sizes) async for _ in work.grow(is_read=True)]
        assert len(found) > 2
        return found[0]

    try:
        assert set(asyncio.run(at_the_first_words())) == {1}
    finally:
        engine.end()
