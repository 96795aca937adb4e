"""Finds faults of a system within a second, before gigabytes of weights are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from speechllm_plugin.adapters.api import ADAPTERS, Adapter, AdapterShape
from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.models.speech_llm.archs import check_part_arch
from speechllm_plugin.models.speech_llm.config import PRETRAINED, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.sizes import adapter_shape, create_ctc_head
from speechllm_plugin.pretrained import Source, check_weight_files, load_hf_config, load_tokenizer, without_modes
from speechllm_plugin.prompts import PromptRenderer
from speechllm_plugin.workarounds.transformers_versions import without_weights


@dataclass(frozen=True)
class Outline:
    """A system whose modules have shapes, but no weights and no memory."""

    config: SpeechLlmConfig
    encoder: SpeechEncoder
    adapter: Adapter
    llm: Llm
    prompts: PromptRenderer | None
    """None for an LLM whose tokenizer is not a file of its checkpoint."""
    shape: AdapterShape


_further: ContextVar[tuple[Callable[[Outline], None], ...]] = ContextVar("further checks", default=())


@contextmanager
def also_checking(check: Callable[[Outline], None]) -> Iterator[None]:
    """Models that are loaded inside the context are also checked by `check`, which knows the manifests."""
    token = _further.set((*_further.get(), check))
    try:
        yield
    finally:
        _further.reset(token)


def check_before_loading(config: SpeechLlmConfig) -> None:
    """Checks values, combinations, files and sizes; `config` is resolved in place.

    :raises UserError: something is wrong; the line begins with its key.
    """
    config.resolve()
    pretrained = (("encoder", config.encoder), ("llm", config.llm))
    # The first check is whether they are the right models at all, by a file of a kilobyte each.
    for kind, section in pretrained:
        if section.arch is not None:
            check_part_arch(kind, section.arch, section.name, section.config)
    for kind, section in pretrained:
        _check_pretrained(kind, section)
    for key, tuning in (("encoder_tuning", config.encoder_tuning), ("llm_tuning", config.llm_tuning)):
        tuning.check_installed(key)
    outlines = [_outline(kind, section) for kind, section in pretrained]
    if None in outlines:
        return  # only the weights tell the sizes of a part of another package
    encoder, llm = outlines
    prompts = None
    if (path := getattr(config.llm.config, "path", None)) is not None:
        prompts = PromptRenderer(load_tokenizer(Source.of("llm", path)), config.prompt, chat=llm.chat)
    with without_memory():
        shape = adapter_shape(config, encoder, llm)
        adapter = ADAPTERS.get(config.adapter.name).build(config.adapter.config, shape)
        create_ctc_head(config.ctc, adapter.frame_dim, shape, llm)
    for check in _further.get():
        check(Outline(config, encoder, adapter, llm, prompts, shape))


def outline_encoder(section: PartSection) -> SpeechEncoder | None:
    """Checks the encoder alone and makes it without weights.

    :param section: the resolved section of the configuration.
    :returns: None for an encoder of another package, whose shape only its weights tell.
    :raises UserError: there is no such checkpoint, or it is of another model.
    """
    if section.arch is not None:
        check_part_arch("encoder", section.arch, section.name, section.config)
    _check_pretrained("encoder", section)
    encoder: SpeechEncoder | None = _outline("encoder", section)
    return encoder


def _check_pretrained(kind: str, section: PartSection) -> None:
    if (check := PRETRAINED[kind].get(section.name).check) is not None:
        check(section.config)
    if (path := getattr(section.config, "path", None)) is not None:
        check_weight_files(Source.of(kind, path))


def _outline(kind: str, section: PartSection) -> Any:
    """The part without weights and without memory; None where only its weights tell its shape."""
    outline = PRETRAINED[kind].get(section.name).outline
    if outline is None:
        return None
    config: Any = section.config
    hf_config = load_hf_config(Source.of(kind, config.path))
    with without_memory():
        return outline(config, hf_config, torch.float32)


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules that are made inside the context have shapes and no values, and cannot be run. Fake tensors could be run,
    but importing them with PyTorch's compiler takes seconds."""
    # The random numbers of a run must not depend on this check. Inference mode is off, since its tensors cannot be cast
    # in place.
    with torch.random.fork_rng(devices=[]), without_modes(), torch.inference_mode(False), without_weights():
        yield
