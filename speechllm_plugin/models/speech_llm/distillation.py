"""The LLM, given what is said in writing, as the teacher of the same LLM given the speech.

Cross entropy asks for the target's tokens alone; the teacher's distribution also tells which other words would do
(arXiv 1503.02531). Teacher and student share every weight but the adapter's: the divergence is 0 where speech means to
the LLM what its text does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from speechllm_plugin.configuration.checked import Checked
from speechllm_plugin.datasets.batch import Clip
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.cross_entropy import divergence, sum_rows
from speechllm_plugin.llms.texts_as_speech import embed_texts
from speechllm_plugin.prompts import PromptRenderer


@dataclass(kw_only=True)
class DistillationConfig(Checked):
    weight: float = 0.0
    """Share of the LLM's loss that is the divergence of its next-token distributions, given the speech, from those
    that it has given the transcript in the same prompt, at the tokens of the target. 0 = cross entropy alone, as
    published; 1 = the divergence alone. It costs a forward pass of the LLM. Clips without a transcript have their cross
    entropy alone, if `ctc.no_transcript` is `leave_out`."""
    temperature: float = 1.0
    """That the logits of both are divided by; the divergence is multiplied by its square, which keeps its gradients in
    proportion (arXiv 1503.02531)."""

    @override
    def problems(self) -> Iterator[str]:
        if not 0 <= self.weight <= 1:
            yield f"weight: found {self.weight}, expected 0 to 1"
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            yield f"temperature: found {self.temperature}, expected a number above 0"


@dataclass(frozen=True)
class Distilled:
    """The clips of a batch that have a transcript, of earlier speech, too."""

    rows: list[int]
    """Their places in the batch."""
    divergence: Tensor
    """Of each, the sum over its target tokens in nats, unweighted."""
    num_targets: int
    """Target tokens of them all."""


def distill(
    llm: Llm,
    prompts: PromptRenderer,
    clips: Sequence[Clip],
    states: Tensor,
    targets: Sequence[Sequence[int]],
    temperature: float,
) -> Distilled | None:
    """
    :param states: `Llm.target_states` of all the clips, given their speech.
    :param targets: token ids of all the clips.
    :returns: None where no clip has a transcript.
    """
    rows = [
        row for row, clip in enumerate(clips)
        if clip.spoken and all(turn.transcript for turn in clip.asks.heard)
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
        losses = divergence(student, teacher, llm.logits, llm.vocabulary_size, temperature)
    return Distilled(rows, sum_rows(losses, own), sum(map(len, own)))
