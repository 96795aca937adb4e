"""Builds a `SpeechLlm` from its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from speechllm_plugin.adapters.api import ADAPTERS
from speechllm_plugin.encoders.api import ENCODERS
from speechllm_plugin.llms.api import LLMS, Llm
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.preflight import check_before_loading
from speechllm_plugin.models.speech_llm.sizes import adapter_shape, create_ctc_head
from speechllm_plugin.pretrained.identity import check_identity
from speechllm_plugin.prompts import PromptRenderer


def create_speech_llm(
    config: SpeechLlmConfig, *, trains: bool = True, load_llm: Callable[[Any], Llm] | None = None
) -> SpeechLlm:
    """Loads the frozen parts and creates the trained ones.

    :param trains: whether losses will be computed.
    :param load_llm: makes the LLM from its configuration, in place of the registered part.

    `config` is resolved in place: fairseq2 saves it after this call, and a saved configuration names every default.
    """
    check_before_loading(config)
    encoder = ENCODERS.get(config.encoder.name).build(config.encoder.config)
    llm = (load_llm or LLMS.get(config.llm.name).build)(config.llm.config)
    check_identity("encoder", config.encoder, encoder, other_weights=config.other_weights)
    check_identity("llm", config.llm, llm, other_weights=config.other_weights)
    if trains:
        llm.prepare_training()
    prompts = PromptRenderer(llm.tokenizer, config.prompt, chat=llm.chat)
    table_rms = _rms(llm.embedding_table.detach())
    shape = adapter_shape(config, encoder, llm, table_rms)
    adapter = ADAPTERS.get(config.adapter.name).build(config.adapter.config, shape)
    ctc = create_ctc_head(config.ctc, adapter.frame_dim, shape, llm, table_rms)
    return SpeechLlm(config, encoder, adapter, llm, ctc, prompts)


def _rms(table: Tensor) -> float:
    """Root mean square of a table, a thousand rows at a time, so that no float32 copy of the whole table is made."""
    pieces = table.split(1024)
    # Allocated beforehand: a norm that is allocated between two pieces would keep the first one's memory from reuse.
    norms = torch.empty(len(pieces), dtype=torch.float32, device=table.device)
    for rows, norm in zip(pieces, norms, strict=True):
        torch.linalg.vector_norm(rows, dtype=torch.float32, out=norm)
    return float(norms.norm()) / table.numel() ** 0.5
