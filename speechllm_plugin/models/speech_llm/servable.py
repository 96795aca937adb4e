"""Whether another program can run the LLM of a trained system. Imports no torch: a refusal comes at once."""

from __future__ import annotations

from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig


def check_servable(config: SpeechLlmConfig) -> None:
    """
    :raises UserError: the LLM is no plain checkpoint of a decoder.
    """
    if config.llm.name != "causal":
        raise UserError(f"llm.name: found {config.llm.name!r}, expected 'causal': vLLM takes no embeddings for others")
    tuning = config.llm_tuning
    if tuning.lora_rank > 0 or tuning.unfreeze:
        raise UserError(
            "llm_tuning: found an LLM that was trained, expected a plain checkpoint for vLLM: "
            "speechllm export RUN DIR --format hf --merge-lora"
        )
    if (found := _option(config.llm.config, "quantization")) not in (None, "none"):
        raise UserError(f"llm.config.quantization: found {found!r}, expected 'none': vLLM reads the weights itself")


def _option(values: Any, name: str) -> Any:
    """Of a configuration as it was read, or resolved."""
    return values.get(name) if isinstance(values, dict) else getattr(values, name, None)
