"""`inspect`, which shares what it has measured."""

from __future__ import annotations

import pytest
from speechllm_tools.inspect.facts import Facts, gather

from speechllm_plugin.cost.estimate import CostModel
from speechllm_plugin.cost.skeleton import SkeletonBuilder
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig, arch_config
from tests.tools.inspect.systems import Inspect


@pytest.fixture(scope="module")
def inspect() -> Inspect:
    builder, costs = SkeletonBuilder(), CostModel()

    def run(
        config: SpeechLlmConfig | str,
        *,
        seconds: float = 2.0,
        target_tokens: int = 8,
        clips: tuple[float, ...] = (2.0,),
        batch_size: int = 10,
    ) -> Facts:
        name = config if isinstance(config, str) else "test"
        skeleton = builder.build(arch_config(config) if isinstance(config, str) else config)
        return gather(
            name, skeleton, costs, seconds=seconds, target_tokens=target_tokens, batch_size=batch_size, clips=clips,
            memory=80_000_000_000,
        )

    return run
