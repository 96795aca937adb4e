"""Makes the trained parts, whose sizes follow from those of the pretrained parts, with or without weights."""

from __future__ import annotations

from pathlib import Path

from speechllm_plugin.adapters.api import AdapterShape
from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.models.speech_llm.config import CtcConfig, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.ctc_head import (
    CtcHead,
    LinearCtcHead,
    LlmEmbeddingCtcHead,
    SentencePieceCtcHead,
)
from speechllm_plugin.text.vocabulary import Vocabulary


def adapter_shape(config: SpeechLlmConfig, encoder: SpeechEncoder, llm: Llm, table_rms: float = 1.0) -> AdapterShape:
    """:param table_rms: root mean square of the LLM's input embeddings."""
    stack = config.frame_stack
    output_rms = table_rms if config.output_scale == "embedding" else 1.0
    return AdapterShape(encoder.dim * stack, llm.dim, encoder.frame_rate / stack, output_rms)


def create_ctc_head(
    config: CtcConfig, frame_dim: int | None, shape: AdapterShape, llm: Llm, table_rms: float = 1.0
) -> CtcHead | None:
    if not config.weight:
        return None
    if frame_dim is None:
        raise UserError(f"ctc.weight: found {config.weight:g}, expected 0: the adapter gives no frames that CTC could "
                        "score")
    if config.classifier == "linear":
        return LinearCtcHead(frame_dim, llm.embedding_table.size(0))
    if config.classifier == "llm_embedding":
        return LlmEmbeddingCtcHead(shape, llm.embedding_table.size(0), table_rms)
    assert config.vocabulary is not None, "validated"
    config.vocabulary = str(Path(config.vocabulary).resolve())
    vocabulary = Vocabulary(
        config.vocabulary,
        "ctc.vocabulary",
        config.vocabulary_size,
        config.vocabulary_sha256,
    )
    # The size is known when a checkpoint is loaded, which decodes without the file.
    if config.vocabulary_size is None or Path(config.vocabulary).is_file():
        config.vocabulary_sha256 = vocabulary.sha256
    config.vocabulary_size = len(vocabulary)
    return SentencePieceCtcHead(frame_dim, vocabulary)
