"""Checks whether clips have room in the LLM: those of a manifest before weights are read, a batch before training."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from speechllm_plugin.adapters.api import ADAPTERS
from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.manifest import seconds_of
from speechllm_plugin.datasets.utterances import Clips, Utterances
from speechllm_plugin.llms.positions import check_positions, check_prompt, needs_more
from speechllm_plugin.models.speech_llm.config import PRETRAINED
from speechllm_plugin.models.speech_llm.preflight import Outline
from speechllm_plugin.pretrained import Source, load_hf_config, without_modes

if TYPE_CHECKING:
    from speechllm_plugin.models.speech_llm.model import SpeechLlm


def check_room_of_rows(outline: Outline, rows: Utterances, *, longest: float | None) -> None:
    """Checks prompts, and rows whose manifest states their duration; no rows where the adapter's rate depends on the
    content.

    :param longest: clips of more seconds are left to the rules for lengths.
    :raises UserError: a prompt alone is too long for the LLM, or a clip with its prompt and its text needs more
        positions than the LLM's table has.
    """
    positions, prompts = outline.llm.positions, outline.prompts
    if positions is None or prompts is None:
        return
    task_of = outline.config.prompt.task_of
    # A token has at least a byte, so that few prompts need to be tokenised.
    for row in rows.take(rows.asking_more_than(positions.limit // 2)):
        prompt = prompts.render(row.source_lang, row.target_lang, task_of(*row.asked), row.row.asks, row.row.id)
        check_prompt(positions, row.name, prompt)
    if not positions.table:
        return
    seconds_of_rows = seconds_of(rows.n_frames)
    is_known = (rows.n_frames > 0) & (seconds_of_rows <= (math.inf if longest is None else longest))
    known = Clips(rows, seconds_of_rows).take(np.flatnonzero(is_known))
    if not known:
        return
    vectors = vector_counter(outline)
    if (most := vectors(float(known.seconds.max()))) is None:
        return
    for row, seconds in known:
        prompt = prompts.render(row.source_lang, row.target_lang, task_of(*row.asked), row.row.asks, row.row.id)
        words = prompt.num_tokens
        # A token has at least a byte, so that most texts need not be tokenised, nor their clips measured.
        if words + most + len(row.row.tgt_text.encode()) + 2 <= positions.limit:
            continue
        text, speech = len(prompts.encode_target(row.row.tgt_text)), vectors(seconds)
        if speech is not None and words + speech + text > positions.limit:
            raise needs_more(row.name, positions, words, speech, text)


def vector_counter(outline: Outline) -> Callable[[float], int | None]:
    """Gives a function from a clip's seconds to its number of speech vectors; None where that depends on its
    content."""
    # Fake tensors compute the shapes. Their import takes seconds, and is only needed for a table of positions.
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorMode,
    )

    mode, config = FakeTensorMode(), outline.config
    section: Any = config.encoder
    outline_encoder: Any = PRETRAINED["encoder"].get(section.name).outline  # every part of an `Outline` has one
    hf_config = load_hf_config(Source.of("encoder", section.config.path))
    with torch.random.fork_rng(devices=[]), without_modes(), torch.inference_mode(False), mode:
        encoder = outline_encoder(section.config, hf_config, torch.float32)
        adapter = ADAPTERS.get(config.adapter.name).build(config.adapter.config, outline.shape)

    @cache
    def count(seconds: float) -> int | None:
        samples = round(seconds * SAMPLE_RATE)
        with without_modes(), torch.no_grad(), mode:
            features, _ = encoder.encode(torch.empty(1, samples), torch.tensor([samples]))
            frames = -(-features.size(1) // config.frame_stack)
            seqs = torch.empty(1, frames, outline.shape.encoder_dim)
            try:
                return int(adapter(seqs, torch.tensor([frames])).seqs.size(1))
            except (DataDependentOutputException, DynamicOutputShapeException):
                return None

    return count


@torch.inference_mode()
def check_room_of_batch(model: SpeechLlm, batch: SpeechTextBatch) -> None:
    """Checks whether clips and their texts have room in the LLM, before training and not hours later.

    :raises UserError: see `check_positions`.
    """
    if model.llm.positions is None:
        return
    prompts, texts = model.prompts_of(batch), [len(model.prompts.encode_target(text)) for text in batch.texts]
    # An adapter makes at most one vector for each frame: if these have room, the clip need not be encoded.
    window = model.encoder.max_seconds or 0.0
    frames = [
        sum(model.frame_rate * max(one.seconds, window) + 1 for one in (clip, *clip.earlier)) for clip in batch
    ]
    words = [prompt.num_tokens + text for prompt, text in zip(prompts, texts, strict=True)]
    if max(most + others for most, others in zip(frames, words, strict=True)) > model.llm.positions.limit:
        _, lengths = model.join_earlier(prompts, model.listen(batch))
        check_positions(model.llm, batch.ids, prompts, lengths, texts)
