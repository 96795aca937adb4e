"""Everything that `speechllm inspect` knows about a system, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from speechllm_plugin.adapters.api import ADAPTERS
from speechllm_plugin.adapters.bert import BertLayers
from speechllm_plugin.adapters.projected import ProjectedAdapter
from speechllm_plugin.cost.estimate import PROMPT_TOKENS, Cost, CostModel, stacked
from speechllm_plugin.cost.gpu_memory import Room, room_for
from speechllm_plugin.cost.skeleton import Skeleton
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.tensors.parameters import count_parameters
from speechllm_plugin.tensors.precision import MachinePrecision, machine_precision
from speechllm_tools.inspect.published import RATES, SIZE_NOTES, SIZES, Rate, Size, closest_encoder

CLIPS = (1.0, 5.0, 15.0, 30.0)
"""Lengths of clips, in seconds, whose compression is shown."""


@dataclass(frozen=True)
class Clip:
    """The vectors of one clip."""

    seconds: float
    frames: int
    """Feature vectors of the encoder."""
    vectors: int
    """Output vectors of the adapter."""

    @property
    def compression(self) -> float:
        return self.frames / self.vectors

    @property
    def hertz(self) -> float:
        """Vectors for each second of the clip itself, without its padding."""
        return self.vectors / self.seconds


@dataclass(frozen=True)
class Facts:
    name: str
    skeleton: Skeleton
    size: Size | None
    """The adapter's size, counted as in table II; None for an adapter of another kind."""
    rate: Rate | None
    """The cell of table I, for an encoder and an adapter of the paper with its settings; otherwise None."""
    content_dependent: bool
    assumed_from: str | None
    """The encoder whose published rate replaces an unknown rate, for outputs that depend on the content."""
    clips: list[Clip]
    clip: Clip
    """The clip whose cost is estimated."""
    target_tokens: int
    batch_size: int
    memory: int
    """Memory of the GPU for the comparison, in bytes."""
    costs: CostModel
    machine: MachinePrecision
    """The meaning of `dtype: auto` on this machine; the estimates are for a GPU, where it is bfloat16."""

    @cached_property
    def cost(self) -> Cost:
        return self.costs.estimate(self.skeleton, self.clip.seconds, self.clip.vectors, self.target_tokens)

    @property
    def room(self) -> Room:
        return room_for(self.cost, self.batch_size, self.memory)

    @property
    def padded(self) -> bool:
        """Whether the encoder pads each clip to its window and keeps the vectors of the padding."""
        window = self.skeleton.encoder.max_seconds
        if window is None:
            return False
        return self.costs.frames(self.skeleton, 1.0) == self.costs.frames(self.skeleton, window)

    def as_json(self) -> dict[str, Any]:
        skeleton, cost, config = self.skeleton, self.cost, self.skeleton.config
        encoder, llm = skeleton.encoder, skeleton.llm
        published = SIZES.get(config.adapter.name)
        return {
            "name": self.name,
            "encoder": {
                **asdict(config.encoder),
                "parameters": count_parameters(encoder),
                "trained_parameters": count_parameters(encoder, trained=True),
                "dim": encoder.dim,
                "frame_rate": encoder.frame_rate,
                "max_seconds": encoder.max_seconds,
            },
            "adapter": {**asdict(config.adapter), "parameters": count_parameters(skeleton.adapter)},
            "ctc": {**asdict(config.ctc), "parameters": count_parameters(skeleton.ctc)},
            "llm": {
                **asdict(config.llm),
                "parameters": count_parameters(llm),
                "trained_parameters": count_parameters(llm, trained=True),
                "dim": llm.dim,
                "vocabulary": llm.embedding_table.size(0),
            },
            "auto": asdict(self.machine),
            "parameters": {"trainable": skeleton.trained, "frozen": skeleton.frozen},
            "table_2_millions": {
                "ours": self.size and asdict(self.size),
                "published": self.size and published and asdict(published),
                "note": SIZE_NOTES.get(config.adapter.name),
            },
            "output": {
                "depends_on_content": self.content_dependent,
                "published": self.rate and asdict(self.rate),
                "assumed_from": self.assumed_from,
                "clips": [{**asdict(clip), "compression": clip.compression, "hertz": clip.hertz}
                          for clip in self.clips],
            },
            "training": {
                "seconds": self.clip.seconds,
                "frames": self.clip.frames,
                "vectors": self.clip.vectors,
                "prompt_tokens": PROMPT_TOKENS,
                "target_tokens": self.target_tokens,
                "batch_size": self.batch_size,
                **{f"{part}_{key}": value for part in ("encoder", "adapter", "ctc", "llm")
                   for key, value in asdict(getattr(cost, part)).items()},
                "flops_per_sample": cost.flops,
                "bytes_per_sample": cost.sample_bytes,
                "frozen_bytes": cost.frozen_bytes,
                "trained_bytes": cost.trained_bytes,
                "bytes_per_gpu": cost.gpu_bytes(self.batch_size),
                "bytes_per_gpu_recomputed": cost.gpu_bytes(self.batch_size, recompute=True),
                "room": {**asdict(self.room), "recompute": self.room.recompute},
            },
        }


def gather(
    name: str,
    skeleton: Skeleton,
    costs: CostModel,
    *,
    seconds: float,
    target_tokens: int,
    batch_size: int,
    memory: int,
    clips: tuple[float, ...] = CLIPS,
) -> Facts:
    """
    :param seconds: length of the clip whose cost is estimated.
    :param target_tokens: tokens of its answer.
    :param batch_size: clips that a GPU trains on at a time.
    :param memory: memory of the GPU for the comparison, in bytes.
    :param clips: lengths whose compression is computed.
    """
    encoder, adapter = skeleton.encoder, skeleton.adapter
    adapter_name, arch = skeleton.config.adapter.name, skeleton.config.encoder.arch
    content_dependent = (
        adapter.output_rate(skeleton.shape.frame_rate) is None
        and costs.fixed_vectors(skeleton, stacked(skeleton, costs.frames(skeleton, seconds))) is None
    )
    of = arch if arch in RATES else closest_encoder(encoder.frame_rate)
    published = RATES[of].get(adapter_name)
    as_published = of == arch and _has_published_settings(skeleton.config)

    def clip(length: float) -> Clip:
        frames = costs.frames(skeleton, length)
        taken = stacked(skeleton, frames)
        if not content_dependent:
            vectors = costs.vectors(skeleton, taken)
        elif published is not None:
            # The number of vectors follows from the clip itself, and not from its padding.
            vectors = min(max(1, round(published.hertz * length)), taken)
        else:
            vectors = taken
        return Clip(length, frames, vectors)

    chosen = clip(seconds)
    if adapter.vector_per_token:
        chosen = Clip(seconds, chosen.frames, min(target_tokens, stacked(skeleton, chosen.frames)))
    window = encoder.max_seconds or max(clips)
    return Facts(
        name=name,
        skeleton=skeleton,
        size=_size(adapter, skeleton.ctc),
        rate=published if as_published else None,
        content_dependent=content_dependent,
        assumed_from=of if content_dependent and published is not None and not as_published else None,
        clips=[clip(length) for length in clips if length <= window],
        clip=chosen,
        target_tokens=target_tokens,
        batch_size=batch_size,
        memory=memory,
        costs=costs,
        machine=machine_precision("cuda" if torch.cuda.is_available() else "cpu"),
    )


def _has_published_settings(config: SpeechLlmConfig) -> bool:
    """Whether all settings that the rate depends on are defaults, which are the paper's."""
    adapter = config.adapter
    return (
        adapter.config == ADAPTERS.config(adapter.name, None)
        and config.frame_stack == 1
        and config.ctc.classifier == "linear"
    )


def _size(adapter: nn.Module, ctc: nn.Module | None) -> Size | None:
    """Millions of parameters as in table II. The Transformer layers are the modality adapter; everything else with the
    CTC head is the length adapter, except the two projections, which do not count."""
    if not isinstance(adapter, ProjectedAdapter):
        return None
    projections = count_parameters(adapter.input, adapter.input_norm, adapter.output, adapter.norm)
    rest = count_parameters(adapter) - projections
    layers = count_parameters(*(module for module in adapter.modules() if isinstance(module, BertLayers)))
    if layers == 0:
        return Size(None, rest / 1e6)
    return Size((rest - layers + count_parameters(ctc)) / 1e6, layers / 1e6)
