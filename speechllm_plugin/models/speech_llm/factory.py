"""Builds a `SpeechLlm` from its configuration."""

from __future__ import annotations

from speechllm_plugin.adapters.api import ADAPTERS, AdapterShape
from speechllm_plugin.encoders.api import ENCODERS
from speechllm_plugin.llms.api import LLMS, Llm
from speechllm_plugin.models.speech_llm.config import CtcConfig, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.ctc import CtcHead, LinearCtcHead, LlmEmbeddingCtcHead
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.prompts import PromptRenderer


def create_speech_llm(config: SpeechLlmConfig) -> SpeechLlm:
    """Loads the frozen parts and creates the trained ones.

    `config` is resolved in place: fairseq2 saves it after this call, and a saved configuration names every default.
    """
    config.resolve()
    encoder = ENCODERS.get(config.encoder.name).build(config.encoder.config)
    llm = LLMS.get(config.llm.name).build(config.llm.config)
    prompts = PromptRenderer(llm.tokenizer, config.prompt)
    rms = llm.embedding_table.detach().float().pow(2).mean().sqrt()
    shape = AdapterShape(encoder.dim, llm.dim, encoder.frame_rate, output_rms=float(rms))
    adapter = ADAPTERS.get(config.adapter.name).build(config.adapter.config, shape)
    ctc = create_ctc_head(config.ctc, adapter.frame_dim, shape, llm)
    return SpeechLlm(config, encoder, adapter, llm, ctc, prompts)


def create_ctc_head(config: CtcConfig, frame_dim: int, shape: AdapterShape, llm: Llm) -> CtcHead | None:
    if config.weight == 0:
        return None
    if config.classifier == "linear":
        return LinearCtcHead(frame_dim, llm.embedding_table.size(0))
    return LlmEmbeddingCtcHead(shape, llm.embedding_table.size(0))
