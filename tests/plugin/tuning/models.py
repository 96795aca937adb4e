"""Systems with tuned parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import HubertConfig, HubertModel, WavLMConfig, WavLMModel

from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.encoders.seamless_m4t_v2 import SeamlessM4Tv2Config, create_seamless_m4t_v2
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig
from speechllm_plugin.pretrained import freeze
from tests.plugin.encoders import test_seamless_m4t_v2, test_w2v_bert, test_wav2vec2

LORA = {"lora_rank": 4, "lora_alpha": 16.0}
TEXTS = ["turn the light on", "play", "", "how long is the drive"]


def create(config: SpeechLlmConfig, tuning: dict[str, dict[str, Any]]) -> SpeechLlm:
    for part, values in tuning.items():
        setattr(config, f"{part}_tuning", TuningConfig(**values))
    torch.manual_seed(0)
    return create_speech_llm(config)


ENCODERS: dict[str, Callable[[Path], SpeechEncoder]] = {
    "hubert base": lambda path: _wav2vec2(path, HubertConfig, HubertModel, test_wav2vec2.BASE),
    "hubert large": lambda path: _wav2vec2(path, HubertConfig, HubertModel, test_wav2vec2.LARGE),
    "wavlm": lambda path: _wav2vec2(path, WavLMConfig, WavLMModel, test_wav2vec2.BASE),
    "w2v_bert": lambda path: test_w2v_bert.encoder_of(
        test_w2v_bert.write_model(path, **test_w2v_bert.ADAPTERS)
    ),
    "seamless_m4t_v2": lambda path: freeze(
        create_seamless_m4t_v2(
            SeamlessM4Tv2Config(path=str(test_seamless_m4t_v2.write_model(path)), dtype="float32")
        )
    ),
}


def _wav2vec2(path: Path, config_kls: Any, model_kls: Any, options: dict[str, Any]) -> SpeechEncoder:
    test_wav2vec2.write_model(path, config_kls, model_kls, **options)
    return test_wav2vec2.encoder_of(path)


def wrap(part: SpeechEncoder | Llm) -> list[int]:
    """Activation checkpointing, with a list that gets an entry whenever a layer runs."""
    from fairseq2.models.utils.ac import apply_layerwise_ac

    runs: list[int] = []
    part.recomputes = True
    for layers in part.layer_lists():
        for layer in layers:
            layer.register_forward_pre_hook(lambda module, inputs: runs.append(1))
        apply_layerwise_ac(layers, 1)
    return runs
