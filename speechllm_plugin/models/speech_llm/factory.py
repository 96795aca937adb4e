"""Builds a `SpeechLlm` from its configuration."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from speechllm_plugin.adapters.api import ADAPTERS, AdapterShape
from speechllm_plugin.encoders.api import ENCODERS, SpeechEncoder
from speechllm_plugin.errors import UserError
from speechllm_plugin.identity import check_identity
from speechllm_plugin.llms.api import LLMS, Llm
from speechllm_plugin.models.speech_llm.archs import check_part_arch
from speechllm_plugin.models.speech_llm.config import CtcConfig, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.ctc import CtcHead, LinearCtcHead, LlmEmbeddingCtcHead, SentencePieceCtcHead
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.prompts import PromptRenderer
from speechllm_plugin.vocabulary import Vocabulary


def create_speech_llm(config: SpeechLlmConfig) -> SpeechLlm:
    """Loads the frozen parts and creates the trained ones.

    `config` is resolved in place: fairseq2 saves it after this call, and a saved configuration names every default.
    """
    config.resolve()
    for kind, section in (("encoder", config.encoder), ("llm", config.llm)):
        if section.arch is not None:
            check_part_arch(kind, section.arch, section.name, section.config)
    encoder = ENCODERS.get(config.encoder.name).build(config.encoder.config)
    llm = LLMS.get(config.llm.name).build(config.llm.config)
    check_identity("encoder", config.encoder, encoder, other_weights=config.other_weights)
    check_identity("llm", config.llm, llm, other_weights=config.other_weights)
    prompts = PromptRenderer(llm.tokenizer, config.prompt, chat=llm.chat)
    table_rms = _rms(llm.embedding_table.detach())
    shape = adapter_shape(config, encoder, llm, table_rms)
    adapter = ADAPTERS.get(config.adapter.name).build(config.adapter.config, shape)
    ctc = create_ctc_head(config.ctc, adapter.frame_dim, shape, llm, table_rms)
    return SpeechLlm(config, encoder, adapter, llm, ctc, prompts)


def _rms(table: Tensor) -> float:
    """A thousand rows at a time, so that no copy of a table in half precision is made."""
    pieces = table.split(1024)
    # Allocated beforehand: a norm between two pieces would keep the memory of the one before from being used again.
    norms = torch.empty(len(pieces), dtype=torch.float32, device=table.device)
    for rows, norm in zip(pieces, norms, strict=True):
        torch.linalg.vector_norm(rows, dtype=torch.float32, out=norm)
    return float(norms.norm()) / table.numel() ** 0.5


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
        "model.config_overrides.ctc.vocabulary",
        config.vocabulary_size,
        config.vocabulary_sha256,
    )
    # Where the size is known, a checkpoint is loaded, and it decodes without the file.
    if config.vocabulary_size is None or Path(config.vocabulary).is_file():
        config.vocabulary_sha256 = vocabulary.sha256
    config.vocabulary_size = len(vocabulary)
    return SentencePieceCtcHead(frame_dim, vocabulary)
