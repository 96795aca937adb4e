"""Merges the trained updates of the LLM into its weights, which leaves a plain model of transformers."""

from __future__ import annotations

from typing import Any

import torch

from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig


def check_mergeable(config: SpeechLlmConfig) -> None:
    """
    :param config: resolved.
    :raises UserError: the LLM was not trained, or its weights are quantised.
    """
    tuning, llm = config.llm_tuning, config.llm.config
    if tuning.lora_rank == 0 and not tuning.unfreeze:
        raise UserError("llm_tuning: found an LLM that was not trained, expected one whose updates can be merged")
    if (found := getattr(llm, "quantization", "none")) != "none":
        raise UserError(
            f"llm.config.quantization: found {found!r}, expected 'none': updates are lost in weights of a few bits"
        )


def merge_llm(system: SpeechLlm) -> None:
    """Adds the low-rank updates of the LLM to their weights; weights that were trained themselves need no merging. The
    system then computes the same up to rounding, with an LLM that counts as not tuned.

    :raises UserError: see `check_mergeable`.
    """
    check_mergeable(system.config)
    if system.config.llm_tuning.lora_rank > 0:
        _merge_updates(system.llm)
    del system.tuned["llm"]
    system.config.llm_tuning = TuningConfig()
    system.config.llm.weights = None


@torch.no_grad()
def _merge_updates(llm: Llm) -> None:
    from peft.tuners.lora import LoraLayer

    layers: list[tuple[str, Any]] = [item for item in llm.named_modules() if isinstance(item[1], LoraLayer)]
    for name, layer in layers:
        base = layer.get_base_layer()
        # The sum is in float32: peft would round the update before adding it.
        update = sum(layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters)
        base.weight.copy_(base.weight.float() + update)
        llm.set_submodule(name, base)
