"""Activation checkpointing, and `torch.compile` of the adapter, which fairseq2 applies layer by layer."""

from __future__ import annotations

from typing import Any

from fairseq2.models.utils.ac import apply_layerwise_ac
from torch import nn

from speechllm_plugin.models.speech_llm.model import SpeechLlm


def apply_ac_to_speech_llm(model: SpeechLlm, every_nth_layer: int) -> nn.Module:
    """`trainer.activation_checkpointing.mode: layerwise`: the backward pass computes activations again.

    It applies to the layers of the adapter, to those of the LLM, which gradients pass on their way to the adapter, and
    to those of a tuned encoder.
    """
    for layers in model.adapter.layer_lists():
        apply_layerwise_ac(layers, every_nth_layer)
    for part in (model.encoder, model.llm) if model.encoder.tuned else (model.llm,):
        part.recomputes = True
        for layers in part.layer_lists():
            apply_layerwise_ac(layers, every_nth_layer)
    return model


def compile_speech_llm(model: SpeechLlm, *args: Any, **kwargs: Any) -> None:
    """`model.compile`: compiles each layer of the adapter on its own, so that equal layers are compiled once."""
    for layers in model.adapter.layer_lists():
        for layer in layers:
            layer.compile(*args, **kwargs)
