"""Clips that a system turns to text together: others join, and those that are done leave, between two tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from speechllm_plugin.adapters.api import AdapterOutput
from speechllm_plugin.alignment.timed_text import TimedText
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.inference.timing import check_timestamps, time_clip
from speechllm_plugin.llms.answering import Answers
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.models.speech_llm.model import SpeechLlm


@dataclass(frozen=True)
class Answered:
    text: str
    generated: Generated
    timed: TimedText | None = None
    """With the times of its words, where they were asked for."""


class RunningClips:
    """See `speechllm_plugin.llms.running`. A clip has the text and the times that it has alone."""

    def __init__(self, model: SpeechLlm) -> None:
        self._model = model
        self._answers = Answers(model.llm, model.prompts)
        self._timed: dict[int, tuple[SpeechTextBatch, AdapterOutput, int]] = {}
        """Where the clips stand whose times are asked for."""

    def __len__(self) -> int:
        """Clips that have no text as yet."""
        return len(self._answers)

    @property
    def joins(self) -> bool:
        """Whether a clip that is added now begins at once."""
        return self._answers.joins

    @torch.inference_mode()
    def add(self, batch: SpeechTextBatch, config: DecodingConfig, *, timed: bool = False) -> list[int]:
        """Encodes clips and reads their prompts. After an error all is as it was.

        :param batch: on the system's device.
        :returns: a number for each clip.
        :raises UserError: as `SpeechLlm.ask`, or the system cannot tell times.
        """
        scored = timed or config.no_speech_blank_share is not None
        speech = self._model.listen(batch, score_frames=scored)
        if timed and any(clip.task.writes_speech for clip in batch):
            check_timestamps(self._model, speech)
        numbers = self._model.ask(self._answers, batch, speech, config)
        if timed:
            self._timed.update((number, (batch, speech, row)) for row, number in enumerate(numbers))
        return numbers

    def drop(self, number: int) -> None:
        """Ends a clip without a text."""
        self._answers.drop(number)
        self._timed.pop(number, None)

    @torch.inference_mode()
    def step(self, *, patient: bool = False) -> dict[int, Answered]:
        """One more token for each clip.

        :param patient: see `Batch.step`.
        :returns: those that have ended with it.
        """
        found = {}
        for number, (text, generated) in self._answers.step(patient=patient).items():
            place = self._timed.pop(number, None)
            timed = None if place is None else time_clip(self._model, *place, text)
            found[number] = Answered(text, generated, timed)
        return found

    def finish(self, numbers: Sequence[int]) -> list[Answered]:
        """Steps until every clip has its text.

        :returns: those of `numbers`.
        """
        found: dict[int, Answered] = {}
        while len(self):
            found.update(self.step(patient=True))
        return [found[number] for number in numbers]
