"""What every trained system on disk tells of itself. Imports no torch: what is wrong with its files is told at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.decoding import DecodingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig


class SavedSystem(ABC):
    """A checkpoint of a training run, or a system that was exported."""

    directory: Path
    step_nr: int | None
    """None where its files do not tell."""

    @property
    @abstractmethod
    def config_file(self) -> Path:
        """What holds its configuration."""

    @property
    @abstractmethod
    def model_dir(self) -> Path:
        """What holds its weights."""

    @abstractmethod
    def weight_files(self) -> list[Path]:
        """In order; there is at least one."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """What was trained, by its names in `SpeechLlm`, on the CPU.

        :raises UserError: a file is damaged.
        """

    @abstractmethod
    def config(self, overrides: Mapping[str, Any] | None = None) -> SpeechLlmConfig:
        """
        :param overrides: keys to change, by dotted path.
        :raises UserError: the configuration cannot be read, or has a key or a value that this version does not know.
        """

    @abstractmethod
    def decoding(self) -> DecodingConfig:
        """How its run decoded its validation; the defaults where nothing tells.

        :raises UserError: the file cannot be read.
        """

    @abstractmethod
    def longest_clip(self) -> float | None:
        """Seconds of the longest clip that it was trained on; None where nothing tells.

        :raises UserError: the file cannot be read.
        """

    def precision(self) -> dict[str, str]:
        """What each frozen part was trained in, by its name."""
        from speechllm_plugin.models.speech_llm.config import part_dtypes

        return part_dtypes(self.config())


def system_config(values: Mapping[str, Any], overrides: Mapping[str, Any], where: str = "model") -> SpeechLlmConfig:
    """
    :param values: the fields of the configuration, as plain values.
    :param overrides: keys to change, by dotted path.
    :param where: begins the path of a key in an error.
    :raises UserError: a key or a value is none that this version knows.
    """
    from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig

    changed = deepcopy(dict(values))
    for key, value in overrides.items():
        _override(changed, key, value)
    config: SpeechLlmConfig = structure(SpeechLlmConfig, changed, where)
    return config


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a key, given by its dotted path, in nested values."""
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"overrides: found key {key!r}, expected a known one; {parent!r} has no keys of its own")
    values[last] = value
