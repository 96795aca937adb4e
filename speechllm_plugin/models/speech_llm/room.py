"""Whether the clips of a manifest have room in an LLM with a table of positions, before any weight is read."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.datasets.manifest import seconds_of
from speechllm_plugin.datasets.speech_text import Utterance
from speechllm_plugin.llms.positions import needs_more
from speechllm_plugin.models.speech_llm.preflight import Outline


def check_room_of_rows(outline: Outline, rows: Iterable[Utterance], *, longest: float | None) -> None:
    """Checks rows whose manifest gives their duration; of an adapter whose rate depends on the content none.

    :param longest: clips above so many seconds are left to the rules for lengths.
    :raises UserError: a clip with its prompt and its text has more positions than the LLM.
    """
    positions, prompts = outline.llm.positions, outline.prompts
    if positions is None or not positions.table or prompts is None:
        return
    vectors = cache(lambda seconds: count_vectors(outline, seconds))
    known = [(row, seconds_of(row.row.n_frames)) for row in rows if row.row.n_frames]
    known = [(row, seconds) for row, seconds in known if longest is None or seconds <= longest]
    if not known or (most := vectors(max(seconds for _, seconds in known))) is None:
        return
    for row, seconds in known:
        prompt = prompts.render(row.source_lang, row.target_lang, outline.config.prompt.task_of(*row.asked))
        words = len(prompt.before) + len(prompt.after)
        # A token has a byte at least: most texts need not be tokenised, nor their clips measured.
        if words + most + len(row.row.tgt_text.encode()) + 2 <= positions.limit:
            continue
        text, speech = len(prompts.encode_target(row.row.tgt_text)), vectors(seconds)
        if speech is not None and words + speech + text > positions.limit:
            raise needs_more(row.name, positions, words, speech, text)


def count_vectors(outline: Outline, seconds: float) -> int | None:
    """The vectors of speech of one clip; None where they depend on what is said."""
    samples = round(seconds * SAMPLE_RATE)
    with outline.without_memory():
        features, _ = outline.encoder.encode(torch.empty(1, samples), torch.tensor([samples]))
        frames = -(-features.size(1) // outline.config.frame_stack)
        seqs = torch.empty(1, frames, outline.shape.encoder_dim)
        try:
            return outline.adapter(seqs, torch.tensor([frames])).seqs.size(1)
        except (DataDependentOutputException, DynamicOutputShapeException):
            return None
