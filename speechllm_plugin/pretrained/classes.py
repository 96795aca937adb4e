"""Finds the class of transformers that loads a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained.configs import config_values, load_hf_config
from speechllm_plugin.pretrained.source import Source


def model_class(kls: Any, source: Source) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    """The class that one of transformers' Auto classes would load, and its configuration; reads no weights."""
    config_values(source)
    config = load_hf_config(source)
    return class_of(kls, config, source), config


def class_of(kls: Any, config: PretrainedConfig, source: Source) -> Any:
    """
    :raises UserError: the Auto class knows no model of this kind.
    """
    if type(config) not in getattr(kls, "_model_mapping", {type(config): kls}):
        raise UserError(f"{source} holds a model of type {config.model_type!r}, which {kls.__name__} does not load")
    return model_of(kls, config)


def model_of(kls: Any, config: PretrainedConfig) -> Any:
    """The class that an Auto class chooses for a configuration that it knows."""
    found = getattr(kls, "_model_mapping", {type(config): kls})[type(config)]
    classes = {one.__name__: one for one in (found if isinstance(found, (tuple, list)) else [found])}
    return next((classes[name] for name in config.architectures or [] if name in classes), next(iter(classes.values())))


def keeps_float32(kls: type[PreTrainedModel], dtype: torch.dtype) -> bool:
    """Whether transformers keeps some weights of a model, such as T5, in float32 when the others become `dtype`."""
    names = {torch.float16: ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"),
             torch.bfloat16: ("_keep_in_fp32_modules_strict",)}
    return any(getattr(kls, name, None) for name in names.get(dtype, ()))
