"""Settles the meaning of `dtype: auto` before fairseq2 reads a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from fairseq2.gang import ReduceOperation
from fairseq2.recipe.base import RecipeContext
from fairseq2.recipe.config import CommonSection, ModelSection, ReferenceModelSection
from fairseq2.utils.config import StandardConfigMerger
from fairseq2.utils.structured import StandardValueConverter

from speechllm_plugin.models.speech_llm.checkpoint import decoding_dtypes
from speechllm_plugin.models.speech_llm.checkpoint_files import Checkpoint, named_checkpoint
from speechllm_plugin.models.speech_llm.config import PRETRAINED, all_arch_names, arch_config
from speechllm_plugin.tensors.precision import DTYPES, MachinePrecision, describe, describe_decoding, machine_precision
from speechllm_recipes.speech_llm.config import SpeechLlmTrainConfig
from speechllm_recipes.speech_llm.run_record import MIXED_PRECISION, recorded_precision


@dataclasses.dataclass(frozen=True)
class TrainingPrecision:
    machine: MachinePrecision
    mixed: str
    """Dtype that the trained parts compute in."""
    kept: bool
    """Whether `auto` keeps its meaning from the machine where the run began, which differs from that on this one."""

    def describe(self, parts: Mapping[str, str]) -> str:
        """
        :param parts: the dtypes that encoder and LLM compute in.
        """
        here = f"`auto` is {self.machine.auto} here: {self.machine.reason}"
        if self.kept:
            here = f"the run goes on in what it began in, although {here}; a new output directory would begin in that"
        return f"Precision: {describe({**parts, MIXED_PRECISION: self.mixed})}; {here}."


@dataclasses.dataclass(frozen=True)
class DecodingPrecision:
    machine: MachinePrecision
    checkpoint: Checkpoint | None

    @property
    def trained(self) -> dict[str, str] | None:
        return None if self.checkpoint is None else self.checkpoint.precision()

    def describe(self, used: Mapping[str, str]) -> str:
        """
        :param used: the dtypes that encoder and LLM compute in.
        """
        return describe_decoding(used, self.trained, self.machine)

    def record(self, used: Mapping[str, str]) -> dict[str, Any]:
        """The precision as score files state it."""
        return {**used, "trained": self.trained, "auto": self.machine.auto, "reason": self.machine.reason}


def shared_precision(context: RecipeContext) -> MachinePrecision:
    """The meaning of `auto` for all processes: bfloat16 if the machine of every process multiplies it."""
    here = machine_precision(context.device)
    gang = context.gangs.root
    # The sum counts them, because a gang of one process cannot reduce by a minimum.
    multiplied = torch.tensor(int(here.auto == "bfloat16"), device=gang.device)
    gang.all_reduce(multiplied, ReduceOperation.SUM)
    if here.auto == "bfloat16" and multiplied < gang.size:
        return dataclasses.replace(here, auto="float32", reason="another process's machine does not multiply bfloat16")
    return here


def settle_training(context: RecipeContext, config: SpeechLlmTrainConfig) -> TrainingPrecision:
    """Replaces each `auto` in `config`: by its meaning here, or for a resumed run by its meaning where it began."""
    machine, began = shared_precision(context), recorded_precision(context.output_dir) or {}
    mixed = config.trainer.mixed_precision
    settled: dict[str, str] = {}
    if mixed.dtype == "auto" and mixed.mode != "off":
        settled[MIXED_PRECISION] = began.get(MIXED_PRECISION, machine.auto)
    if mixed.dtype == "auto":
        mixed.dtype = DTYPES[settled.get(MIXED_PRECISION, "float32")]
    for part in _auto_parts(config.model):
        settled[part] = began.get(part, machine.auto)
        _set_dtype(config.model, part, settled[part])
    computed_in = "float32" if mixed.mode == "off" else str(mixed.dtype).removeprefix("torch.")
    return TrainingPrecision(machine, computed_in, any(dtype != machine.auto for dtype in settled.values()))


def settle_decoding(context: RecipeContext, section: ReferenceModelSection, common: CommonSection) -> DecodingPrecision:
    """Writes into `section` the dtypes that a checkpoint is decoded in here, if they differ from those of its training
    and the user has not set them."""
    machine = shared_precision(context)
    checkpoint = named_checkpoint(common.assets.prev_checkpoint_dir, section.name)
    if checkpoint is not None:
        for part, dtype in decoding_dtypes(checkpoint.precision(), machine).items():
            if not _names_dtype(section.config_overrides, part):
                _set_dtype(section, part, dtype)
    return DecodingPrecision(machine, checkpoint)


def _auto_parts(section: ModelSection) -> list[str]:
    """The parts whose `dtype` will be `auto` once fairseq2 has merged their configuration."""
    if section.name is not None or section.arch is None or section.arch not in all_arch_names():
        return []  # the model has a precision already, or there is no model
    values: Any = StandardValueConverter().unstructure(arch_config(section.arch))
    if section.config_overrides is not None:
        values = StandardConfigMerger().merge(values, section.config_overrides)
    return [part for part in PRETRAINED if _dtype(part, values) == "auto"]


def _dtype(part: str, values: Any) -> object:
    try:
        name, config = values[part]["name"], values[part]["config"] or {}
        return config.get("dtype", getattr(PRETRAINED[part].get(name).config_kls(), "dtype", None))
    except (TypeError, KeyError, AttributeError):
        return None  # this is no configuration, which its next reader reports


def _names_dtype(overrides: object, part: str) -> bool:
    """Whether the user sets the dtype of a part."""
    for key in (part, "config"):
        if overrides is None:
            return False
        if not isinstance(overrides, Mapping):
            return True  # this is no configuration, which its next reader reports
        overrides = overrides.get(key)
    return overrides is not None and (not isinstance(overrides, Mapping) or "dtype" in overrides)


def _set_dtype(section: ModelSection | ReferenceModelSection, part: str, dtype: str) -> None:
    section.config_overrides = StandardConfigMerger().merge(
        section.config_overrides, {part: {"config": {"dtype": dtype}}}
    )
