"""Reads the JSON files of a checkpoint, before any weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import transformers
from transformers import CONFIG_MAPPING, AutoConfig, GenerationConfig, PretrainedConfig

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained.hub import NoSuchFileError, find_file, read_json
from speechllm_plugin.pretrained.source import Source

ConfigT = TypeVar("ConfigT", bound=PretrainedConfig)


def load_config(source: Source, kls: type[ConfigT]) -> ConfigT:
    """The configuration of a checkpoint, checked to be of the class that the part expects."""
    values = config_values(source)
    found = values["model_type"]
    if found != kls.model_type:
        raise UserError(f"{source} holds a model of type {found!r}, expected {kls.model_type!r}")
    return source.reading(lambda: kls.from_dict(values))


def config_values(source: Source) -> dict[str, Any]:
    """The values of a checkpoint's config.json, whose `model_type` is checked to be one that transformers knows."""
    def read() -> dict[str, Any]:
        if (file := Path(source.place) / "config.json").is_file():
            read_json(file)  # its errors name the fault
        return PretrainedConfig.get_config_dict(source.place)[0]

    values: dict[str, Any] = source.reading(read)
    if not values:
        raise UserError(f"{source} has no config.json; expected a checkpoint directory in Hugging Face's format")
    found = values.get("model_type")
    if found is None:
        raise UserError(
            f"{source.key}: the config.json of {source.path} has no model_type; expected a model of transformers"
        )
    if not isinstance(found, str) or found not in CONFIG_MAPPING:
        writer = values.get("transformers_version", "an unknown version")
        raise UserError(
            f"{source} holds a model of type {found!r}, written by transformers {writer}, which transformers "
            f"{transformers.__version__} does not know; install a version of transformers that does, or choose another "
            "model"
        )
    return values


def load_hf_config(source: Source) -> PretrainedConfig:
    """transformers' configuration of a checkpoint, of any class."""
    return source.reading(lambda: AutoConfig.from_pretrained(source.place))


def load_preprocessor(source: Source) -> dict[str, Any]:
    """The values of a checkpoint's preprocessor_config.json."""
    return source.reading(lambda: read_json(find_file(source.place, "preprocessor_config.json")))


def generation_config(source: Source) -> GenerationConfig | None:
    """The generation_config.json of a checkpoint; None where it has none."""

    def read() -> GenerationConfig | None:
        try:
            read_json(find_file(source.place, "generation_config.json"))
        except NoSuchFileError:
            return None
        return GenerationConfig.from_pretrained(source.place)

    return source.reading(read)
