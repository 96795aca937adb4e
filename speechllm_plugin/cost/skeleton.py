"""A system without weights: the real modules on PyTorch's meta device, as fake tensors that know shape and dtype.

Fake tensors also compute: the real code of a part runs on them and tells the shapes of its results, in milliseconds
and without memory.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, PretrainedConfig

from speechllm_plugin.adapters.api import ADAPTERS, Adapter, AdapterShape
from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.models.speech_llm.archs import PART_ARCHS, check_part_arch
from speechllm_plugin.models.speech_llm.config import PRETRAINED, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.ctc_head import CtcHead
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.sizes import adapter_shape, create_ctc_head
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig
from speechllm_plugin.pretrained import Source, config_values, freeze
from speechllm_plugin.tensors.parameters import count_parameters
from speechllm_plugin.tensors.precision import DTYPES


@dataclass(frozen=True)
class Skeleton:
    model: SpeechLlm
    mode: Any
    """The mode under which the model was built and its parts run."""
    shape: AdapterShape

    @property
    def config(self) -> SpeechLlmConfig:
        return self.model.config

    @property
    def encoder(self) -> SpeechEncoder:
        return self.model.encoder

    @property
    def adapter(self) -> Adapter:
        return self.model.adapter

    @property
    def llm(self) -> Llm:
        return self.model.llm

    @property
    def ctc(self) -> CtcHead | None:
        return self.model.ctc

    @property
    def trained(self) -> int:
        """Trained parameters, including those of encoder and LLM."""
        return count_parameters(self.model)

    @property
    def frozen(self) -> int:
        parts = self.encoder, self.llm
        return count_parameters(*parts) - count_parameters(*parts, trained=True)


class SkeletonBuilder:
    """Builds skeletons that share their frozen parts, so that a table of many systems builds each part once."""

    def __init__(self, mode: AbstractContextManager[Any] | None = None) -> None:
        """:param mode: under which parts are built; None = as fake tensors. A device gives them random weights."""
        self._mode: Any = FakeTensorMode() if mode is None else mode
        self._frozen: dict[str, Any] = {}

    def build(self, config: SpeechLlmConfig) -> Skeleton:
        """
        :param config: is resolved in place.
        :raises UserError: the configuration is wrong, or a part's shape cannot be known without network.
        """
        config.resolve()
        encoder: SpeechEncoder = self._part("encoder", config.encoder, config.encoder_tuning)
        llm: Llm = self._part("llm", config.llm, config.llm_tuning)
        shape = adapter_shape(config, encoder, llm)
        prompts: Any = None  # nothing here reads text
        with self._mode:
            adapter = ADAPTERS.get(config.adapter.name).build(config.adapter.config, shape)
            ctc = create_ctc_head(config.ctc, adapter.frame_dim, shape, llm)
            model = SpeechLlm(config, encoder, adapter, llm, ctc, prompts)
        return Skeleton(model, self._mode, shape)

    def _part(self, kind: str, section: PartSection, tuning: TuningConfig) -> Any:
        key = f"{kind} {section}"
        if key in self._frozen and tuning == TuningConfig():
            return self._frozen[key]
        registered = PRETRAINED[kind].get(section.name)
        if registered.outline is not None:
            hf_config = _hf_config(kind, section, registered.model_types)
            with self._mode:
                part = freeze(registered.outline(section.config, hf_config, gpu_dtype(section.config)))
        else:
            part = freeze(self._by_its_own_code(kind, section))
        if tuning == TuningConfig():  # otherwise the model will change it
            self._frozen[key] = part
        return part

    def _by_its_own_code(self, kind: str, section: PartSection) -> Any:
        """A part that has no outline."""
        try:
            with self._mode:
                return PRETRAINED[kind].get(section.name).build(section.config)
        except UserError:
            raise
        except Exception as error:  # what its loading does to fake tensors may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"{kind}.name: found {section.name!r}, expected one that can be built without weights ({reason[:200]})"
            ) from error


def _hf_config(kind: str, section: PartSection, model_types: Collection[str]) -> PretrainedConfig:
    """The configuration of a part: its directory's own config.json, or else that of its published architecture."""
    path = str(vars(section.config)["path"])  # every part that is built here has one
    known = PART_ARCHS[kind]
    if Path(path).is_dir():
        if section.arch is not None:
            check_part_arch(kind, section.arch, section.name, section.config)
        source = Source.of(kind, path)
        values = config_values(source)
        if model_types and values["model_type"] not in model_types:
            raise UserError(
                f"{source} holds a model of type {values['model_type']!r}, expected {' or '.join(model_types)}"
            )
        return AutoConfig.for_model(**values)
    for name, arch in known.items():
        if name == section.arch or (section.arch is None and path == arch.path):
            return arch.hf_config()
    raise UserError(
        f"{kind}.config.path: found {path!r}, which is no directory here and none of the models that are known by name "
        f"({', '.join(known)}); expected either"
    )


def gpu_dtype(config: Any) -> torch.dtype:
    """A part's precision on a GPU that multiplies bfloat16, for which the estimates are."""
    return DTYPES["bfloat16" if config.dtype == "auto" else config.dtype]


def frozen_bytes(skeleton: Skeleton) -> int:
    """Bytes of the frozen weights of encoder and LLM in their own precision; quantised linear layers count 8 bits for
    each weight, or 4 with the scales of their blocks."""
    each = {"int8": 1.0, "nf4": 0.5 + 0.127 / 8}.get(getattr(skeleton.config.llm.config, "quantization", "none"))
    quantised: set[Tensor] = set()
    if each is not None:
        model: Any = skeleton.llm.model
        head = model.get_output_embeddings()
        quantised = {part.weight for part in model.modules() if isinstance(part, nn.Linear) and part is not head}
    weights = [*skeleton.encoder.parameters(), *skeleton.llm.parameters()]
    return round(
        sum(
            weight.numel() * (each if each and weight in quantised else weight.element_size())
            for weight in weights
            if not weight.requires_grad
        )
    )
