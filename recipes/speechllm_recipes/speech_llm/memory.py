"""Settles `trainer.activation_checkpointing.mode=auto` by an estimate, once the longest clips are known."""

from __future__ import annotations

from copy import deepcopy

import torch
from fairseq2.device import Device
from fairseq2.logging import log

from speechllm_plugin.cost.estimate import Cost, CostModel, stacked
from speechllm_plugin.cost.gpu_memory import room_for
from speechllm_plugin.cost.skeleton import SkeletonBuilder
from speechllm_plugin.datasets.reader import SpeechTextReader
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.units.layers import apply_ac_to_speech_llm
from speechllm_recipes.speech_llm.config import SpeechLlmTrainConfig


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
    batch_size = dataset.batch_size
    if dataset.max_batch_seconds is not None:
        batch_size = max(1, min(batch_size, int(dataset.max_batch_seconds / seconds)))
    try:
        cost = _estimate(model.config, seconds, target_tokens)
    except UserError as error:
        log.info("Memory: it cannot be estimated ({}); no activation checkpointing.", error)
        return
    room = room_for(cost, batch_size, memory)
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


def _estimate(config: SpeechLlmConfig, seconds: float, target_tokens: int) -> Cost:
    """The cost with the most vectors that the adapter can make, whatever the speech is."""
    config = deepcopy(config)
    config.ctc.bos = False  # no tokenizer is loaded
    skeleton, costs = SkeletonBuilder().build(config), CostModel()
    frames = stacked(skeleton, costs.frames(skeleton, seconds))
    return costs.estimate(skeleton, seconds, costs.most_vectors(skeleton, frames, target_tokens), target_tokens)
