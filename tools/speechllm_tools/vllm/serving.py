"""The LLM of a trained system, as vLLM is started with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from speechllm_plugin.llms.causal_checks import check_architecture
from speechllm_plugin.llms.positions import positions_of
from speechllm_plugin.llms.vllm.server import NAME
from speechllm_plugin.models.speech_llm.checkpoint import device_named
from speechllm_plugin.models.speech_llm.saved_system import SavedSystem
from speechllm_plugin.models.speech_llm.servable import check_servable
from speechllm_plugin.pretrained import Source
from speechllm_plugin.pretrained.identity import check_identity, identity_of
from speechllm_plugin.pretrained.input_embeddings import load_input_embeddings
from speechllm_plugin.tensors.precision import machine_precision, part_dtype

_POSITIONS = 4096
"""More than a prompt with 30 s of speech and its text have. vLLM keeps memory for a whole row of them."""


@dataclass(frozen=True)
class Llm:
    place: str
    """A directory or a hub id."""
    names: tuple[str, str]
    """For people, and for `--engine vllm`."""
    dtype: str
    """That of `speechllm transcribe` on this machine."""
    positions: int


def find_llm(checkpoint: SavedSystem, overrides: Mapping[str, Any]) -> Llm:
    """
    :raises UserError: vLLM cannot run it, it cannot be read, or it has other weights than in training.
    """
    config = checkpoint.config(overrides)
    check_servable(config)
    config.resolve()
    part: Any = config.llm.config
    source = Source.of("llm", part.path)
    embedding, model = load_input_embeddings(AutoModelForCausalLM, source, part_dtype(part))
    check_architecture(type(model), model.config, part.path)
    check_identity("llm", config.llm, embedding, other_weights=config.other_weights)
    known = positions_of(model, model.config.get_text_config())
    return Llm(
        source.place,
        (Path(part.path).name, NAME.format(identity_of(embedding))),
        machine_precision(device_named(None)).decode_in(part.dtype),
        _POSITIONS if known is None else min(_POSITIONS, known.limit),
    )
