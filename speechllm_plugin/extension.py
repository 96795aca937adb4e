"""The fairseq2 extension: composition only."""

from __future__ import annotations

from fairseq2.composition import register_dataset_family, register_in_memory_assets, register_model_family
from fairseq2.runtime.dependency import DependencyContainer

from speechllm_plugin.cards import model_cards
from speechllm_plugin.datasets.speech_text import (
    SPEECH_TEXT_DATASET,
    SpeechTextConfig,
    SpeechTextDataset,
    open_speech_text,
)
from speechllm_plugin.models.speech_llm.config import (
    SPEECH_LLM_FAMILY,
    SpeechLlmConfig,
    register_speech_llm_archs,
)
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.fsdp import apply_fsdp_to_speech_llm, convert_shard
from speechllm_plugin.models.speech_llm.layers import apply_ac_to_speech_llm, compile_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm


def setup(container: DependencyContainer) -> None:
    register_in_memory_assets(container, "speechllm_plugin", model_cards())
    register_model_family(
        container,
        SPEECH_LLM_FAMILY,
        kls=SpeechLlm,
        config_kls=SpeechLlmConfig,
        factory=create_speech_llm,
        # The factory loads the frozen parts, on every process.
        supports_meta=False,
        state_dict_converter=convert_shard,
        compiler=compile_speech_llm,
        fsdp_applier=apply_fsdp_to_speech_llm,
        layerwise_ac_applier=apply_ac_to_speech_llm,
    )
    register_speech_llm_archs(container)
    register_dataset_family(
        container, SPEECH_TEXT_DATASET, SpeechTextDataset, SpeechTextConfig, opener=open_speech_text
    )
