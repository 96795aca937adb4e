"""fairseq2 asset cards, one for each named architecture: composed, never written out."""

from __future__ import annotations

from speechllm_plugin.models.speech_llm.config import SPEECH_LLM_FAMILY, arch_names


def model_cards() -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "model_family": SPEECH_LLM_FAMILY,
            "model_arch": name,
            # fairseq2 prints this where a card has no checkpoint.
            "url": f"the README: no checkpoint is published, train one with --config model.arch={name}",
        }
        for name in arch_names()
    ]
