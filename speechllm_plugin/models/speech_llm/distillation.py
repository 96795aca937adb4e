"""The LLM given the transcript as the teacher of the same LLM given the speech.

Cross entropy only rewards the target's tokens; the teacher's distribution also tells which other words would do
(arXiv 1503.02531). Teacher and student share every weight but the adapter's: the divergence is 0 where speech means to
the LLM what its text does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speechllm_plugin.datasets.batch import Clip
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.cross_entropy import divergence, sum_rows
from speechllm_plugin.llms.texts_as_speech import embed_texts
from speechllm_plugin.models.speech_llm.distillation_config import DistillationConfig
from speechllm_plugin.prompts import PromptRenderer


@dataclass(frozen=True)
class Distilled:
    """The divergence for the clips of a batch that have the teacher: it needs a transcript, also of earlier speech."""

    rows: list[int]
    """Places of these clips in the batch."""
    divergence: Tensor
    """For each of these clips, the unweighted sum over its target tokens, in nats."""
    num_targets: int
    """Target tokens of these clips together."""


def distill(
    llm: Llm,
    prompts: PromptRenderer,
    clips: Sequence[Clip],
    states: Tensor,
    targets: Sequence[Sequence[int]],
    config: DistillationConfig,
) -> Distilled | None:
    """
    :param states: `Llm.target_states` of all the clips, given their speech.
    :param targets: token ids of all the clips.
    :returns: None where no clip has this teacher and a transcript.
    """
    rows = [
        row for row, clip in enumerate(clips)
        if config.teaches(clip.task.name) and clip.spoken and all(turn.transcript for turn in clip.asks.heard)
    ]  # fmt: skip
    if not rows:
        return None
    written = [
        prompts.render_text(clip.source_lang, clip.target_lang, str(clip.spoken), clip.task, clip.asks, clip.draw)
        for clip in (clips[row] for row in rows)
    ]
    own = [targets[row] for row in rows]
    with torch.no_grad():
        texts, lengths = embed_texts(llm, [words for _, words in written])
        teacher = llm.target_states([prompt for prompt, _ in written], texts, lengths, own)
    parts = states.split([len(target) for target in targets])
    student = torch.cat([parts[row] for row in rows])
    with llm.precision(states.device.type):
        losses = divergence(student, teacher, llm.logits, llm.vocabulary_size, config.temperature)
    return Distilled(rows, sum_rows(losses, own), sum(map(len, own)))
