"""A small system in evaluation, and a batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.models.speech_llm.config import CtcConfig, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from tests.plugin.speech_llm.systems import batches_of, create


@pytest.fixture
def model(tiny_config: SpeechLlmConfig) -> SpeechLlm:
    """With the auxiliary CTC head, in evaluation."""
    tiny_config.adapter.config = {"stack": 2, "hidden_dim": 48}
    tiny_config.ctc = CtcConfig(weight=0.3, classifier="llm_embedding")
    return create(tiny_config).eval()


@pytest.fixture
def batch(tiny_manifest: Path) -> SpeechTextBatch:
    """The twelve training clips, longest first."""
    return batches_of(tiny_manifest / "train.tsv")[0]
