"""The config.json of an exported system."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.models.speech_llm.checkpoint_files import override
from speechllm_plugin.models.speech_llm.config import PRETRAINED, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.kept_vocabulary import kept_vocabulary

INSIDE = "./"
"""Prefix of the path of a frozen part that lies in the exported folder."""


class HfSpeechLlmConfig(PretrainedConfig):
    """Holds the plain values of our own configuration, which checks them."""

    model_type = "speech_llm"

    def __init__(
        self, system: dict[str, Any] | None = None, decoding: dict[str, Any] | None = None, **others: Any
    ) -> None:
        """
        :param system: the fields of `SpeechLlmConfig`.
        :param decoding: the fields of `DecodingConfig`, as the training run decoded its validation.
        """
        self.system = system or {}
        self.decoding = decoding or {}
        super().__init__(**others)

    def place(self, folder: Path) -> None:
        """Makes the paths of parts in the exported folder absolute."""
        for part in PRETRAINED:
            values = self.system[part]["config"]
            if str(path := values.get("path")).startswith(INSIDE):
                values["path"] = str((folder / path).resolve())
        if (kept := kept_vocabulary(self.system, folder)) is not None:
            self.system["ctc"]["vocabulary"] = kept

    def system_config(self, overrides: dict[str, Any]) -> SpeechLlmConfig:
        """
        :param overrides: keys to change, by dotted path.
        :raises UserError: this version does not know a key or a value.
        """
        values = copy.deepcopy(self.system)
        for key, value in overrides.items():
            override(values, key, value)
        config: SpeechLlmConfig = structure(SpeechLlmConfig, values, "system")
        return config
