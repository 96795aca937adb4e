"""Whether CTC can align the rows that a run trains on: told before the first step, not by a loss that stays 0."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.errors import UserError
from speechllm_plugin.log import log
from speechllm_plugin.models.speech_llm.ctc import frames_needed
from speechllm_plugin.models.speech_llm.model import SpeechLlm

_LOOKED_AT = 2000
"""Rows at most, evenly spread: their texts must be tokenised."""
_MANY = 0.01
"""Share of rows that cannot be aligned from which a run is worth a warning."""


def check_alignable(model: SpeechLlm, transcripts: Sequence[str], seconds: Sequence[float], split: str) -> None:
    """
    :param transcripts: of the clips, with their durations in `seconds`.
    :raises UserError: CTC can align none of them.
    """
    if model.ctc is None:
        return
    step = math.ceil(len(transcripts) / _LOOKED_AT)
    texts = transcripts[::step]
    labels = model.ctc.labels(texts, [model.prompts.encode_target(text)[:-1] for text in texts])
    frames = ctc_frames(model, seconds[::step])
    known = [(frames_needed(row), length) for row, length in zip(labels, frames, strict=True) if row is not None]
    unknown = len(labels) - len(known)
    short = sum(needed > length for needed, length in known)
    if unknown + short <= _MANY * len(labels):
        return
    reasons = []
    if short:
        needed, length = (statistics.median(values) for values in zip(*known, strict=True))
        reasons.append(
            f"{short:,} need more frames than they have (at the median of all a text needs {needed:.0f}, its clip has "
            f"{length:.0f})"
        )
    if unknown:
        reasons.append(f"{unknown:,} have a character outside the vocabulary")
    line = f"ctc: CTC cannot align {unknown + short:,} of {len(labels):,} rows of split {split!r}: {', '.join(reasons)}"
    remedy = (
        "more frames (a smaller frame_stack or stride of the adapter), fewer labels (longer pieces: ctc.classifier="
        "sentencepiece with a larger vocabulary), or ctc.weight=0"
    )
    if unknown + short == len(labels):
        raise UserError(f"{line}; expected {remedy}")
    log.warning("{}; they add nothing to its loss. What helps: {}.", line, remedy)


@torch.no_grad()
def ctc_frames(model: SpeechLlm, seconds: Sequence[float]) -> list[int]:
    """How many frames CTC has for clips of these durations, rounded up: at most one more than it really has."""
    device = next(model.parameters()).device
    samples = torch.tensor([SAMPLE_RATE, 2 * SAMPLE_RATE], device=device)
    # An encoder says nothing of its lengths but by encoding: they grow evenly, or not at all with Whisper's padding.
    _, lengths = model.encoder(torch.zeros(2, 2 * SAMPLE_RATE, device=device), samples)
    one, two = lengths.tolist()
    joined = model.config.frame_stack * model.adapter.frame_stride
    return [max(1, math.ceil((one + (two - one) * (length - 1.0)) / joined)) for length in seconds]
