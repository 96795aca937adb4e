"""Items of the engine, and how a system decodes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from speechllm_plugin.alignment.timed_text import TimedText
from speechllm_plugin.inference.reading import Named
from speechllm_plugin.llms.decoding import DecodingConfig, without_guards
from speechllm_plugin.tasks.answer import ANSWER
from speechllm_plugin.tasks.row_prompt import RowPrompt

if TYPE_CHECKING:
    from speechllm_plugin.inference.running import Answered
    from speechllm_plugin.inference.transcriber import Transcriber


@dataclass(frozen=True)
class Transcribing:
    """How a piece is transcribed or translated."""

    source_lang: str
    target_lang: str | None
    timed: bool
    temperature: float | None = None
    """None decodes like the system's run."""


@dataclass(frozen=True)
class Asking:
    """How questions are answered; questions with equal values are answered together, whatever each of them asks."""

    max_tokens: int
    temperature: float | None = None
    """None decodes like the system's run."""
    top_p: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Question:
    clip: Named
    asks: RowPrompt
    earlier: Sequence[Named] = ()
    """Speech of earlier turns, in the order of `asks.heard`."""


@dataclass(frozen=True)
class Answer:
    text: str
    prompt_tokens: int
    """Tokens of the whole prompt without its speech."""
    speech_vectors: int
    """Embeddings of the speech, each of which takes the place of a token in the LLM's input."""
    tokens: int
    cut: bool
    """Whether the length limit ended the answer."""


class Decoder:
    """A system's batch, as the engine has it: pieces of recordings and questions, in whatever ways."""

    def __init__(self, system: Transcriber, source_lang: str) -> None:
        """:param source_lang: of the speech in questions."""
        from speechllm_plugin.inference.running import RunningClips

        self._system, self._source_lang = system, source_lang
        self._clips = RunningClips(system.model)
        self._results: dict[int, Callable[[Answered], TimedText | str | Answer]] = {}

    @property
    def joins(self) -> bool:
        return self._clips.joins

    def add(self, items: Sequence[Any], way: Transcribing | Asking) -> list[int]:
        return self._ask(items, way) if isinstance(way, Asking) else self._transcribe(items, way)

    def _transcribe(self, pieces: Sequence[Named], way: Transcribing) -> list[int]:
        system, source, target = self._system, way.source_lang, way.target_lang
        decoding = _sampled(system.decoding, way.temperature)
        timed = way.timed and system.writes_speech(source, target)
        numbers = self._clips.add(system.read(pieces, source, target), decoding, timed=timed)
        self._results.update(dict.fromkeys(numbers, lambda found: found.timed or found.text))
        return numbers

    def _ask(self, questions: Sequence[Question], way: Asking) -> list[int]:
        """As `Transcriber.ask`, each clip with a question of its own."""
        system, prompts = self._system, self._system.model.prompts
        decoding = _sampled(without_guards(system.decoding), way.temperature)
        if decoding.temperature > 0:
            decoding = replace(decoding, top_p=way.top_p or decoding.top_p, seed=way.seed)
        batch = system.read([question.clip for question in questions], self._source_lang, None, ANSWER)
        for clip, question in zip(batch, questions, strict=True):
            clip.asks = question.asks
            if question.earlier:
                clip.earlier = system.read(question.earlier, self._source_lang, None, ANSWER).clips
        tokens = [
            prompts.render(clip.source_lang, clip.target_lang, clip.task, clip.asks).num_tokens for clip in batch
        ]
        numbers = self._clips.add(batch, system.answering(way.max_tokens, decoding))
        self._results.update((number, partial(_answer, count)) for number, count in zip(numbers, tokens, strict=True))
        return numbers

    def drop(self, number: int) -> None:
        self._clips.drop(number)
        del self._results[number]

    def step(self) -> Mapping[int, TimedText | str | Answer]:
        return {number: self._results.pop(number)(found) for number, found in self._clips.step().items()}


def _answer(prompt_tokens: int, found: Answered) -> Answer:
    row = found.generated
    return Answer(found.text, prompt_tokens, row.speech_vectors, len(row.tokens), row.cut)


def _sampled(decoding: DecodingConfig, temperature: float | None) -> DecodingConfig:
    if temperature is None:
        return decoding
    if temperature > 0:
        # Sampling works without beams.
        return replace(decoding, temperature=temperature, beam_size=1)
    return replace(decoding, temperature=0.0, top_k=0, top_p=1.0)
