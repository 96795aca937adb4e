"""Checks of the training rows for CTC and CIF, before the first step: transcripts, and enough frames for them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
import torch

from speechllm_plugin.alignment.forced import frames_needed
from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.datasets.utterances import Clips, Utterance, Utterances
from speechllm_plugin.errors import UserError
from speechllm_plugin.log import log
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.tasks.api import Task
from speechllm_plugin.tensors.copies import on_host

_LOOKED_AT = 2000
"""Most rows that are checked, evenly spread over all, since tokenising takes time."""
_MANY = 0.01
"""Share of rows that cannot be aligned from which on a warning is logged."""


class Transcripts(Sequence[str]):
    """Transcripts of the clips that have one."""

    def __init__(self, clips: Clips, model: SpeechLlm) -> None:
        self._clips, self._prompt = clips, model.config.prompt

    def __len__(self) -> int:
        return len(self._clips)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._transcript(clip) for clip, _ in self._clips[index]]
        return self._transcript(self._clips[index][0])

    def _transcript(self, clip: Utterance) -> str:
        return self._prompt.task_of(*clip.asked).spoken(clip.row.tgt_text, clip.row.src_text) or ""


def known_transcripts(model: SpeechLlm, clips: Clips, split: str) -> tuple[Transcripts, Sequence[float]]:
    """Transcripts of the clips that have one, with the clips' durations; other clips are counted in the log.

    :raises UserError: a clip has no transcript, and the model's configuration does not leave such clips out.
    """
    prompt, rows, distillation = model.config.prompt, clips.utterances, model.config.distillation

    def of_tasks(chosen: Callable[[Task], bool]) -> npt.NDArray[np.bool_]:
        found = np.zeros(len(rows), dtype=bool)
        found[rows.where(lambda asked: chosen(prompt.task_of(*asked)))] = True
        return found

    # The same rule as in `Task.spoken`.
    is_unknown = of_tasks(lambda task: not task.writes_speech) & rows.has_text & ~rows.has_source
    known = clips.take(np.flatnonzero(~is_unknown))
    untaught = is_unknown & of_tasks(lambda task: distillation.teaches(task.name))
    losses = [*(["CTC"] if model.ctc is not None else []), *model.adapter.loss_weights]
    unknown = rows.take(np.flatnonzero(is_unknown if losses else untaught))
    losses += ["distillation"] if untaught.any() else []
    if unknown and losses:
        line = (
            f"{unknown[0].name}, column 'src_text': found none for {len(unknown):,} of {len(clips):,} rows of split "
            f"{split!r}, which are no transcriptions"
        )
        if model.config.ctc.no_transcript == "refuse":
            raise UserError(
                f"{line}; expected what is said, for the losses of {' and '.join(losses)}, or "
                "ctc.no_transcript=leave_out"
            )
        log.warning("{}; they are left out of the losses of {}.", line, " and ".join(losses))
    if model.config.distillation.weight:
        _check_earlier(model, rows, split)
    return Transcripts(known, model), memoryview(known.seconds)  # type: ignore[arg-type]


def _check_earlier(model: SpeechLlm, rows: Utterances, split: str) -> None:
    """:raises UserError: earlier turns in speech have no transcript, which the teacher needs."""
    unknown = [
        row for row in rows.take(rows.hearing)
        if model.config.distillation.teaches(model.config.prompt.task_of(*row.asked).name)
        and not all(turn.transcript for turn in row.row.asks.heard)
    ]
    if not unknown:
        return
    line = (
        f"{unknown[0].name}, column 'history': found no transcript of earlier speech in {len(unknown):,} of "
        f"{len(rows):,} rows of split {split!r}"
    )
    if model.config.ctc.no_transcript == "refuse":
        raise UserError(f"{line}; expected one, for the loss of distillation, or ctc.no_transcript=leave_out")
    log.warning("{}; they are left out of the loss of distillation.", line)


def check_alignable(model: SpeechLlm, transcripts: Sequence[str], seconds: Sequence[float], split: str) -> None:
    """
    :param transcripts: transcripts of clips whose durations are `seconds`.
    :raises UserError: CTC cannot align any of them.
    """
    if model.ctc is None or not transcripts:
        return
    step = math.ceil(len(transcripts) / _LOOKED_AT)
    texts = transcripts[::step]
    labels = model.ctc.labels(texts, model.transcripts_tokens(texts))
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
    """The number of CTC's frames for clips of these durations, rounded up: at most one more than the real number."""
    device = next(model.parameters()).device
    samples = on_host([SAMPLE_RATE, 2 * SAMPLE_RATE])
    # Only encoding tells the length of features, which grows evenly, or with Whisper's padding not at all.
    _, lengths = model.encoder(torch.zeros(2, 2 * SAMPLE_RATE, device=device), samples)
    one, two = lengths.tolist()
    joined = model.config.frame_stack * model.adapter.frame_stride
    return [max(1, math.ceil((one + (two - one) * (length - 1.0)) / joined)) for length in seconds]
