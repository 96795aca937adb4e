"""Writes the table of a recipe's keys, which `fairseq2 recipe run` looks into before it imports fairseq2.

    python -m speechllm_tools.known_keys recipes/speechllm_recipes/speech_llm/known_keys.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from fairseq2.recipe import config as fairseq2_config
from speechllm_recipes.speech_llm.config import (
    CascadeConfig,
    SpeechLlmEvaluateConfig,
    SpeechLlmGenerateConfig,
    SpeechLlmTrainConfig,
)

from speechllm_plugin.datasets.speech_text import SpeechTextConfig
from speechllm_plugin.registry import ADAPTERS, ENCODERS, LLMS, RECOGNIZERS

COMMAND = "python -m speechllm_tools.known_keys recipes/speechllm_recipes/speech_llm/known_keys.json"
_ACTIONS = {
    "train": SpeechLlmTrainConfig,
    "evaluate": SpeechLlmEvaluateConfig,
    "generate": SpeechLlmGenerateConfig,
    "cascade": CascadeConfig,
}
_COMPONENTS: dict[str, dict[str, type[Any]]] = {
    "optimizer": {
        fairseq2_config.ADAMW_OPTIMIZER: fairseq2_config.AdamWConfig,
        fairseq2_config.ADAFACTOR_OPTIMIZER: fairseq2_config.AdafactorConfig,
    },
    "lr_scheduler": {
        fairseq2_config.COSINE_ANNEALING_LR: fairseq2_config.CosineAnnealingLRConfig,
        fairseq2_config.MYLE_LR: fairseq2_config.MyleLRConfig,
        fairseq2_config.NOAM_LR: fairseq2_config.NoamLRConfig,
        fairseq2_config.POLYNOMIAL_DECAY_LR: fairseq2_config.PolynomialDecayLRConfig,
        fairseq2_config.TRI_STAGE_LR: fairseq2_config.TriStageLRConfig,
    },
}
"""The configuration class of a section's `config`, by the section's `name`."""
_SCALARS: dict[Any, str] = {
    bool: "bool", int: "int", float: "float", str: "str", NoneType: "null", torch.dtype: "dtype", Path: "str",
    list[str]: "list[str]",
}


def tables() -> dict[str, dict[str, str]]:
    """The values of the keys of each action, and of each part's and component's `config`: types, words in quotation
    marks, or `any` where they are not known. A `config` itself is `of NAME`, the default name of its section."""
    found = {action: dict(_keys(kls())) for action, kls in _ACTIONS.items()}
    found["dataset.config_overrides"] = dict(_fields(SpeechTextConfig))
    for section, components in _COMPONENTS.items():
        for name, kls in components.items():
            found[f"{section}.config of {name}"] = dict(_fields(kls))
    for registry in (ENCODERS, ADAPTERS, LLMS, RECOGNIZERS):
        for name in sorted(registry.own_names):
            found[f"{registry.kind}.config of {name}"] = dict(_fields(registry.get(name).config_kls))
    return found


def _keys(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    hints = get_type_hints(type(config))
    names = {field.name for field in fields(config)}
    for name in names:
        value, key = getattr(config, name), f"{prefix}{name}"
        if hints[name] is object and name == "config" and "name" in names:
            yield key, f"of {config.name}"
        elif is_dataclass(value) and hints[name] is not object:
            yield from _keys(value, f"{key}.")
        else:
            yield key, _kinds(hints[name])


def _fields(kls: type[Any]) -> Iterator[tuple[str, str]]:
    hints = get_type_hints(kls)
    for field in fields(kls):
        yield field.name, _kinds(hints[field.name])


def _kinds(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(map(_kinds, get_args(hint)))
    if get_origin(hint) is Literal:
        return " | ".join(map(repr, get_args(hint)))
    return _SCALARS.get(hint, "any")


def text() -> str:
    return json.dumps(tables(), indent=1, sort_keys=True) + "\n"


def main() -> int:
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
