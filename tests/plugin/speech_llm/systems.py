"""Small systems and batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.ctc_head import LlmEmbeddingCtcHead
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm


def create(config: SpeechLlmConfig) -> SpeechLlm:
    torch.manual_seed(0)
    model = create_speech_llm(config)
    if isinstance(model.ctc, LlmEmbeddingCtcHead):
        model.ctc.set_vocabulary(range(6, 320))
    return model


def batches_of(
    manifest: Path, *, batch_size: int = 12, find: Callable[[str], Tensor | None] = lambda key: None
) -> list[SpeechTextBatch]:
    # Here, because the reader is fairseq2's, which `make test-latest` does without.
    from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader

    utterances = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(manifest)})).read("all")
    options = ReadOptions(limits=BatchLimits(batch_size, None), shuffle_seed=None, max_seconds=30.0)
    return [batch for step in SpeechTextReader(utterances, options, find_features=find) for batch in step]
