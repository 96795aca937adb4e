"""Settles `trainer.activation_checkpointing.mode=auto` by an estimate, once the longest clips are known."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from fairseq2.device import Device
from fairseq2.logging import log

from speechllm_plugin.cost.estimate import PROMPT_TOKENS, Cost, CostModel, stacked
from speechllm_plugin.cost.gpu_memory import room_for
from speechllm_plugin.cost.skeleton import SkeletonBuilder
from speechllm_plugin.datasets.reader import SpeechTextReader
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.sharding import bytes_elsewhere
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.units.layers import apply_ac_to_speech_llm
from speechllm_recipes.speech_llm.config import SpeechLlmTrainConfig, TrainDatasetSection


def settle_checkpointing(
    config: SpeechLlmTrainConfig, model: SpeechLlm, reader: SpeechTextReader, target_tokens: int, device: Device
) -> None:
    """
    :param target_tokens: tokens of the longest text.
    """
    section, dataset = config.trainer.activation_checkpointing, config.dataset
    if section.mode != "auto" or (memory := _memory(section.memory_gb, device)) is None:
        return
    seconds = float(reader.clips.seconds.max())
    try:
        cost, positions = _estimate(model.config, seconds, target_tokens)
    except UserError as error:
        log.info("Memory: it cannot be estimated ({}); no activation checkpointing.", error)
        return
    cost = replace(cost, frozen_bytes=cost.frozen_bytes - bytes_elsewhere(model.llm))
    room = room_for(cost, _most_clips(dataset, seconds, positions), memory)
    line = "Memory of a GPU, estimated for clips of {:.1f} s and {} tokens: {}."
    (log.info if room.is_enough else log.warning)(
        line, seconds, target_tokens, room.describe(config.trainer.grad_accumulation.num_batches)
    )
    if room.recompute:
        apply_ac_to_speech_llm(model, section.every_nth_layer)


def _memory(given: float | None, device: Device) -> int | None:
    """Memory of the device in bytes; None on a CPU, whose memory other programs share."""
    if given is not None:
        return round(given * 1e9)
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def _most_clips(dataset: TrainDatasetSection, seconds: float, positions: int) -> int:
    """The most clips of this length, with this many positions of the LLM, that a batch may have."""
    limits = [dataset.batch_size]
    if dataset.max_batch_seconds is not None:
        limits.append(int(dataset.max_batch_seconds / seconds))
    if dataset.max_batch_positions is not None:
        limits.append(dataset.max_batch_positions // positions)
    return max(1, min(limits))  # a clip longer than a limit makes a batch of its own


def _estimate(config: SpeechLlmConfig, seconds: float, target_tokens: int) -> tuple[Cost, int]:
    """The cost with the most vectors that the adapter can make, whatever the speech is.

    :returns: the cost of a clip, and its positions of the LLM.
    """
    config = deepcopy(config)
    config.ctc.bos = False  # no tokenizer is loaded
    skeleton, costs = SkeletonBuilder().build(config), CostModel()
    frames = stacked(skeleton, costs.frames(skeleton, seconds))
    vectors = costs.most_vectors(skeleton, frames, target_tokens)
    return costs.estimate(skeleton, seconds, vectors, target_tokens), PROMPT_TOKENS + vectors + target_tokens
