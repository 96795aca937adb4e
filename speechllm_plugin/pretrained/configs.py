"""The configurations of a checkpoint: what its JSON files say before a weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import transformers
from transformers import CONFIG_MAPPING, AutoConfig, GenerationConfig, PretrainedConfig

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained.explaining import explained
from speechllm_plugin.pretrained.hub import NoSuchFileError, find_file, local_path, read_json

ConfigT = TypeVar("ConfigT", bound=PretrainedConfig)


def load_config(path: str, kls: type[ConfigT], key: str) -> ConfigT:
    """The configuration of a checkpoint, checked to be of the class that the part expects.

    :param key: the configuration key that holds `path`, for errors.
    """
    values = config_values(path, key)
    found = values["model_type"]
    if found != kls.model_type:
        raise UserError(f"{key}: {path} holds a model of type {found!r}, expected {kls.model_type!r}")
    return explained(key, path, lambda: kls.from_dict(values))


def config_values(path: str, key: str) -> dict[str, Any]:
    """What a checkpoint's config.json holds; its `model_type` is one that transformers knows."""
    def read() -> dict[str, Any]:
        source = local_path(path, key)
        if (file := Path(source) / "config.json").is_file():
            read_json(file)  # whose errors tell what is wrong
        return PretrainedConfig.get_config_dict(source)[0]

    values: dict[str, Any] = explained(key, path, read)
    if not values:
        raise UserError(f"{key}: {path} has no config.json; expected a checkpoint directory in Hugging Face's format")
    found = values.get("model_type")
    if found is None:
        raise UserError(f"{key}: the config.json of {path} has no model_type; expected a model of transformers")
    if not isinstance(found, str) or found not in CONFIG_MAPPING:
        writer = values.get("transformers_version", "an unknown version")
        raise UserError(
            f"{key}: {path} holds a model of type {found!r}, written by transformers {writer}, which transformers "
            f"{transformers.__version__} does not know; install a version of transformers that does, or choose another "
            "model"
        )
    return values


def load_hf_config(path: str, key: str) -> PretrainedConfig:
    """transformers' configuration of a checkpoint, of whatever class it is."""
    return explained(key, path, lambda: AutoConfig.from_pretrained(local_path(path, key)))


def load_preprocessor(path: str, key: str) -> dict[str, Any]:
    """What a checkpoint's preprocessor_config.json holds."""
    source = local_path(path, key)
    return explained(key, path, lambda: read_json(find_file(source, "preprocessor_config.json")))


def generation_config(source: str) -> GenerationConfig | None:
    """None where the checkpoint has none."""
    try:
        read_json(find_file(source, "generation_config.json"))
    except NoSuchFileError:
        return None
    return GenerationConfig.from_pretrained(source)
