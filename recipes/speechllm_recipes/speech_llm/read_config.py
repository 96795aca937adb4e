"""Reads the training recipe's configuration like `fairseq2 recipe run`, for commands without a run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairseq2.utils.argparse import ConfigAction
from fairseq2.utils.config import StandardConfigMerger
from fairseq2.utils.structured import StandardValueConverter, StructureError
from fairseq2.utils.validation import StandardObjectValidator, ValidationError

from speechllm_plugin.datasets.speech_text import SPEECH_TEXT_DATASET, SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig, all_arch_names, arch_config, unknown_arch
from speechllm_plugin.registry import structure
from speechllm_plugin.workarounds.strict_numbers import refuse_numbers_of_another_kind
from speechllm_recipes.config_errors import config_error, structure_error
from speechllm_recipes.given_keys import given, nested
from speechllm_recipes.speech_llm.config import SpeechLlmTrainConfig
from speechllm_recipes.speech_llm.step_numbers import derived_steps

_MERGER = StandardConfigMerger()
_EXPECTED = "expected a configuration as the recipe's --config-file takes it"


def read_training_config(file: Path | None, items: Sequence[str] = ()) -> SpeechLlmTrainConfig:
    """
    :param file: the value of `--config-file`.
    :param items: the values of `--config`, which replace those of the file.
    :raises UserError: a key is unknown or a value wrong; the line names the file only if it is not YAML.
    """
    refuse_numbers_of_another_kind()
    converter, of_file = StandardValueConverter(), _read(file)
    with _one_line():
        merged: Any = converter.unstructure(SpeechLlmTrainConfig())
        for values in (nested(derived_steps(given(file, items))), of_file, *_directives(items)):
            merged = _MERGER.merge(merged, values)
        config = converter.structure(merged, SpeechLlmTrainConfig)
        assert isinstance(config, SpeechLlmTrainConfig)
        StandardObjectValidator().validate(config)
    return config


def model_config_of(config: SpeechLlmTrainConfig, overrides: Mapping[str, Any] | None = None) -> SpeechLlmConfig:
    """The model that a run makes.

    :param overrides: keys to change, by dotted path.
    :raises UserError: there is no such architecture, or one of its keys or values is wrong.
    """
    arch = str(config.model.arch)
    if arch not in all_arch_names():
        raise unknown_arch(arch, "model.arch")
    with _one_line():
        values: Any = StandardValueConverter().unstructure(arch_config(arch))
        for changes in (config.model.config_overrides, nested(overrides or {})):
            if changes is not None:
                values = _MERGER.merge(values, changes)
        model: SpeechLlmConfig = structure(SpeechLlmConfig, values, "model.config_overrides")
        try:
            StandardObjectValidator().validate(model)
        except ValidationError as error:
            raise ValidationError(error.result, field="model.config_overrides") from error
    return model


def dataset_of(config: SpeechLlmTrainConfig) -> SpeechTextDataset:
    """
    :raises UserError: the dataset has an asset card or another family, or one of its keys is wrong.
    """
    section = config.dataset
    if section.name is not None or section.family != SPEECH_TEXT_DATASET:
        raise UserError(
            f"dataset.name, dataset.family: found {section.name} and {section.family}, expected null and "
            f"{SPEECH_TEXT_DATASET}: manifests in dataset.config_overrides"
        )
    with _one_line():
        values: Any = StandardValueConverter().unstructure(SpeechTextConfig())
        if section.config_overrides is not None:
            values = _MERGER.merge(values, section.config_overrides)
        dataset = StandardValueConverter().structure(values, SpeechTextConfig)
    assert isinstance(dataset, SpeechTextConfig)
    return SpeechTextDataset(dataset)


def _read(file: Path | None) -> object:
    if file is None:
        return {}
    try:
        return parse_yaml(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError) as error:
        raise UserError(f"{' '.join(str(error).split())}; {_EXPECTED}") from error


def _directives(items: Sequence[str]) -> list[Mapping[str, object]]:
    """The directives that fairseq2 reads from `--config`, `set:` and `del:` included."""
    parser = argparse.ArgumentParser(prog="--config", add_help=False)
    parser.add_argument("--config", action=ConfigAction, dest="config")
    return [parser.parse_args(["--config", item]).config[0] for item in items]


@contextmanager
def _one_line() -> Iterator[None]:
    """
    :raises UserError: fairseq2 refused the configuration.
    """
    try:
        yield
    except ValidationError as error:
        raise UserError(config_error(error) or str(error)) from error
    except StructureError as error:
        raise UserError(structure_error(error)) from error
    except (ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{' '.join(str(error).split())}; {_EXPECTED}") from error
