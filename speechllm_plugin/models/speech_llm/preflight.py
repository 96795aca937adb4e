"""Finds in a second what is wrong with a system: before the first weight of gigabytes is read."""

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
    """A system without weights and without memory: its modules know their shapes."""

    config: SpeechLlmConfig
    encoder: SpeechEncoder
    adapter: Adapter
    llm: Llm
    prompts: PromptRenderer | None
    """None for an LLM whose tokenizer is no file of a checkpoint."""
    shape: AdapterShape


_further: ContextVar[tuple[Callable[[Outline], None], ...]] = ContextVar("further checks", default=())


@contextmanager
def also_checking(check: Callable[[Outline], None]) -> Iterator[None]:
    """What is loaded within it is first checked by `check`, too: of manifests, which the model does not know."""
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
    # First whether they are the right models at all, by a file of a kilobyte each.
    for kind, section in pretrained:
        if section.arch is not None:
            check_part_arch(kind, section.arch, section.name, section.config)
    for kind, section in pretrained:
        _check_pretrained(kind, section)
    for key, tuning in (("encoder_tuning", config.encoder_tuning), ("llm_tuning", config.llm_tuning)):
        tuning.check_installed(key)
    outlines = [_outline(kind, section) for kind, section in pretrained]
    if None in outlines:
        return  # of another package, whose sizes only its weights tell
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
    """The encoder alone, checked, and without weights.

    :param section: resolved.
    :returns: None for one of another package, which only its weights tell of.
    :raises UserError: there is no such checkpoint, or it is another one.
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
    """The part without weights and without memory; None where only its weights tell what it is."""
    outline = PRETRAINED[kind].get(section.name).outline
    if outline is None:
        return None
    config: Any = section.config
    hf_config = load_hf_config(Source.of(kind, config.path))
    with without_memory():
        return outline(config, hf_config, torch.float32)


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules that are made have the shapes of real ones, and no values. They are not run: fake tensors, which could
    be, would take the seconds that PyTorch's compiler takes to import."""
    # The numbers that are drawn for a run begin where they would without this. Tensors that know no gradient, as those
    # of inference mode, cannot be cast in place.
    with torch.random.fork_rng(devices=[]), without_modes(), torch.inference_mode(False), without_weights():
        yield
