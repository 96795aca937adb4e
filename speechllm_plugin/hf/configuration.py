"""The config.json of an exported system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.exported import MODEL_TYPE, place
from speechllm_plugin.models.speech_llm.saved_system import system_config


class HfSpeechLlmConfig(PretrainedConfig):
    """Holds the plain values of our own configuration, which checks them."""

    model_type = MODEL_TYPE

    def __init__(
        self,
        system: dict[str, Any] | None = None,
        decoding: dict[str, Any] | None = None,
        longest_clip: float | None = None,
        **others: Any,
    ) -> None:
        """
        :param system: the fields of `SpeechLlmConfig`.
        :param decoding: those of `DecodingConfig`, as the training run decoded its validation.
        :param longest_clip: seconds of the longest clip that the run was trained on; None = not known.
        """
        self.system = system or {}
        self.decoding = decoding or {}
        self.longest_clip = longest_clip
        super().__init__(**others)

    def place(self, folder: Path) -> None:
        """Makes the paths of what lies in the exported folder absolute."""
        place(self.system, folder)

    def system_config(self, overrides: dict[str, Any]) -> SpeechLlmConfig:
        """
        :param overrides: keys to change, by dotted path.
        :raises UserError: this version does not know a key or a value.
        """
        return system_config(self.system, overrides, "system")
