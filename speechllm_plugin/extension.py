"""The fairseq2 extension: composition only."""

from __future__ import annotations

from fairseq2.composition import register_dataset_family, register_in_memory_assets, register_model_family
from fairseq2.runtime.config_registry import ConfigRegistrar
from fairseq2.runtime.dependency import DependencyContainer

from speechllm_plugin.datasets.speech_text import (
    SPEECH_TEXT_DATASET,
    SpeechTextConfig,
    SpeechTextDataset,
    open_speech_text,
)
from speechllm_plugin.models.speech_llm.cards import model_cards
from speechllm_plugin.models.speech_llm.config import (
    SPEECH_LLM_FAMILY,
    SpeechLlmConfig,
    all_arch_names,
    arch_config,
)
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.shards import whole_vocabulary
from speechllm_plugin.units.fsdp import apply_fsdp_to_speech_llm
from speechllm_plugin.units.layers import apply_ac_to_speech_llm, compile_speech_llm


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
        state_dict_converter=whole_vocabulary,
        compiler=compile_speech_llm,
        fsdp_applier=apply_fsdp_to_speech_llm,
        layerwise_ac_applier=apply_ac_to_speech_llm,
    )
    arch = ConfigRegistrar(container, SpeechLlmConfig)
    for name in all_arch_names():
        arch(name)(lambda name=name: arch_config(name))
    register_dataset_family(
        container, SPEECH_TEXT_DATASET, SpeechTextDataset, SpeechTextConfig, opener=open_speech_text
    )
