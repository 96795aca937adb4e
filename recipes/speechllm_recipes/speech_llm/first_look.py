"""Finds mistakes in a configuration's keys, their values and the files that it names.

It imports neither torch nor fairseq2, which take seconds, so that a typo is reported first. Later readers of the
configuration check the rest: whether parts fit each other, and the content of checkpoints and rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.archs import find_part_arch
from speechllm_plugin.models.speech_llm.checkpoint_files import named_checkpoint
from speechllm_plugin.models.speech_llm.config import (
    DEFAULT_ARCH,
    SPEECH_LLM_FAMILY,
    PartSection,
    SpeechLlmConfig,
    all_arch_names,
    arch_config,
    unknown_arch,
)
from speechllm_plugin.pretrained import Source
from speechllm_plugin.prompts import PromptConfig
from speechllm_plugin.registry import ADAPTERS, ENCODERS, LLMS, RECOGNIZERS, Registry
from speechllm_recipes.given_keys import below, merged, nested
from speechllm_recipes.speech_llm.conflicts import DEFAULTS, conflicts
from speechllm_recipes.speech_llm.key_checks import check_keys, check_section, is_later
from speechllm_recipes.speech_llm.step_numbers import derived_steps

_MODEL, _DATASET = "model.config_overrides", "dataset.config_overrides"
_COMPARED = {key[:place] for key in DEFAULTS for place, letter in enumerate(key) if letter == "."}
"""Sections of the keys that are compared with each other."""


def look_at_train(given: Mapping[str, Any]) -> None:
    """
    :param given: keys that are set, by dotted key.
    :raises UserError: something is wrong; the line begins with its key, or with the file.
    """
    known = look_at_train_keys(given)
    if _waits(given):
        return
    _check_model(known)
    structure(DecodingConfig, nested(below(known, "decoding")), "decoding").check("decoding")
    splits = [*_names(known.get("dataset.train_split", "train")), *_names(known.get("dataset.valid_splits", "dev"))]
    _check_manifests(known, splits)


def look_at_train_keys(given: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `look_at_train` for the recipe's own keys, without the model and files.

    :returns: those whose values are known already.
    """
    known = check_keys("train", {**derived_steps(given), **given})
    # Sections that are replaced as a whole have other defaults.
    if _waits(given) or not _COMPARED.isdisjoint(given):
        return known
    if found := list(conflicts(lambda key: known.get(key, DEFAULTS[key]))):
        raise UserError("; ".join(f"{key}: found {value}, expected {expected}" for key, value, expected in found))
    return known


def look_at_evaluate(given: Mapping[str, Any]) -> None:
    """The same as `look_at_train`, for this action."""
    known = check_keys("evaluate", given)
    if _waits(given):
        return
    _check_model(known)
    structure(DecodingConfig, nested(below(known, "decoding")), "decoding")
    _check_manifests(known, _names(known.get("dataset.splits", "test")))


def look_at_generate(given: Mapping[str, Any]) -> None:
    """The same as `look_at_train`, for this action."""
    known = check_keys("generate", given)
    if _waits(given):
        return
    _check_model(known)
    structure(DecodingConfig, nested(below(known, "decoding")), "decoding")
    _check_manifests(known, _names(known.get("dataset.split", "test")), require_text=False)


def look_at_cascade(given: Mapping[str, Any]) -> None:
    """The same as `look_at_train`, for this action."""
    known = check_keys("cascade", given)
    if _waits(given):
        return
    structure(PromptConfig, nested(below(known, "prompt")), "prompt").check()
    structure(DecodingConfig, nested(below(known, "decoding")), "decoding").check("decoding")
    for registry, default in ((RECOGNIZERS, "whisper"), (LLMS, "causal")):
        _check_name(registry, known.get(f"{registry.kind}.name", default))
    _check_manifests(known, _names(known.get("dataset.splits", "test")))


def _waits(given: Mapping[str, Any]) -> bool:
    """Whether only fairseq2 knows some value, without which the values of other keys say little."""
    return any(map(is_later, given.values()))


def _check_model(given: Mapping[str, Any]) -> None:
    if given.get("model.path") is not None or given.get("model.family", SPEECH_LLM_FAMILY) not in (
        None, SPEECH_LLM_FAMILY
    ):  # fmt: skip
        return
    if (name := given.get("model.name")) is not None:
        directory = given.get("common.assets.prev_checkpoint_dir")
        checkpoint = named_checkpoint(None if directory is None else Path(directory), name)
        if checkpoint is None:
            return
        base = checkpoint.config()
    else:
        if (arch := given.get("model.arch", DEFAULT_ARCH)) is None:
            return
        if arch not in all_arch_names():
            raise unknown_arch(str(arch), "model.arch")
        base = arch_config(arch)
    changes = below(given, _MODEL)
    config: SpeechLlmConfig = structure(SpeechLlmConfig, merged(asdict(base), changes), _MODEL)
    with _keys_of_the_model():
        look_at_model(config, changes)


def look_at_model(config: SpeechLlmConfig, changes: Mapping[str, Any]) -> None:
    """
    :param changes: keys of the model that the user sets, by dotted key.
    :raises UserError: a value is wrong, there is no such part, or a checkpoint has no directory.
    """
    config.check()
    registries: tuple[Registry[Any], ...] = (ENCODERS, ADAPTERS, LLMS)
    for registry in registries:
        section, key = getattr(config, registry.kind), f"{registry.kind}.config"
        _check_name(registry, section.name)
        check_section(f"{key} of {section.name}", below(changes, key), key)
        _check_place(registry.kind, section)


@contextmanager
def _keys_of_the_model() -> Iterator[None]:
    """Completes the keys in errors, which are relative to the model's configuration."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{_MODEL}.{error}") from None


def _check_name(registry: Registry[Any], name: str) -> None:
    if name not in registry.names():
        raise registry.unknown(name)


def _check_place(kind: str, section: PartSection) -> None:
    """Checks the architecture's name and the checkpoint's directory of an encoder or an LLM."""
    if section.arch is not None:
        find_part_arch(kind, section.arch)
    path = section.config.get("path") if isinstance(section.config, Mapping) else None
    if isinstance(path, str):
        Source.of(kind, path).check()


def _check_manifests(given: Mapping[str, Any], splits: list[str], *, require_text: bool = True) -> None:
    """Checks that the manifests of the splits exist and have their columns; rows are read later."""
    if given.get("dataset.name") is not None or "dataset.family" in given or not splits:
        return
    if any("." in key for key in below(given, f"{_DATASET}.manifests")):
        return  # a split's name with a dot looks like two keys
    # Imported late, because both import numpy, which takes a part of a second.
    from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset

    values = nested(check_section(_DATASET, below(given, _DATASET), _DATASET))
    if isinstance(values.get("manifests"), dict):
        SpeechTextDataset(SpeechTextConfig(**values)).check_columns(splits, require_text=require_text)


def _names(value: object) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else [str(value)]
