"""The files of a system that `speechllm export --format hf` has written. Imports neither torch nor transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.kept_vocabulary import kept_vocabulary
from speechllm_plugin.models.speech_llm.saved_system import SavedSystem, system_config

if TYPE_CHECKING:
    from torch import Tensor

    from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig

MODEL_TYPE = "speech_llm"
"""What config.json calls it."""
INSIDE = "./"
"""What the path of a frozen part begins with that lies in the exported folder."""
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class ExportedSystem(SavedSystem):
    directory: Path
    step_nr: None = None

    @property
    def config_file(self) -> Path:
        return self.directory / _CONFIG

    @property
    def model_dir(self) -> Path:
        return self.directory

    def weight_files(self) -> list[Path]:
        return [self.directory / _WEIGHTS]

    def weights(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        self.check_weights()
        return load_file(self.directory / _WEIGHTS)

    def config(self, overrides: Mapping[str, Any] | None = None) -> SpeechLlmConfig:
        values = deepcopy(self._section("system"))
        try:
            place(values, self.directory)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"checkpoint: found a damaged {self.config_file} (system lacks {error}), expected a configuration"
            ) from error
        return system_config(values, overrides or {})

    def decoding(self) -> DecodingConfig:
        decoding: DecodingConfig = structure(DecodingConfig, self._section("decoding"), f"{self.config_file}: decoding")
        return decoding

    def longest_clip(self) -> float | None:
        seconds = self._values.get("longest_clip")
        return float(seconds) if isinstance(seconds, int | float) else None

    def check_weights(self) -> None:
        """Tells a file that a full disk or an unfinished copy has cut.

        :raises UserError: it is damaged, or is not there.
        """
        from safetensors import SafetensorError, safe_open

        file = self.directory / _WEIGHTS
        try:
            with safe_open(file, framework="np"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"checkpoint: found a damaged {file} ({error}), expected those of an export") from error

    def _section(self, name: str) -> dict[str, Any]:
        values = self._values.get(name)
        if not isinstance(values, dict):
            raise UserError(
                f"checkpoint: found a damaged {self.config_file} ({name} is {values!r}), expected a configuration"
            )
        return values

    @cached_property
    def _values(self) -> dict[str, Any]:
        return _read(self.config_file)


def is_exported(folder: Path) -> bool:
    """
    :raises UserError: its config.json, which would tell, is damaged.
    """
    file = folder / _CONFIG
    return file.is_file() and _read(file).get("model_type") == MODEL_TYPE


def place(values: dict[str, Any], folder: Path) -> None:
    """Makes the paths of what lies in the exported folder absolute.

    :param values: the fields of `SpeechLlmConfig`, as plain values, changed in place.
    """
    from speechllm_plugin.models.speech_llm.config import PRETRAINED

    for part in PRETRAINED:
        part_values = values[part]["config"]
        if str(path := part_values.get("path")).startswith(INSIDE):
            part_values["path"] = str((folder / path).resolve())
    if (kept := kept_vocabulary(values, folder)) is not None:
        values["ctc"]["vocabulary"] = kept


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"checkpoint: found a damaged {file} ({reason}), expected a configuration") from error
    if not isinstance(values, dict):
        raise UserError(f"checkpoint: found a damaged {file} ({values!r:.40}), expected a configuration")
    return values
