"""Items of the engine, and how a system decodes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from speechllm_plugin.alignment.timed_text import TimedText
from speechllm_plugin.inference.reading import Named
from speechllm_plugin.llms.decoding import DecodingConfig, without_guards
from speechllm_plugin.tasks.answer import ANSWER
from speechllm_plugin.tasks.row_prompt import RowPrompt

if TYPE_CHECKING:
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
    """A system, as the engine calls it."""

    def __init__(self, system: Transcriber, source_lang: str) -> None:
        self._system, self._source_lang = system, source_lang

    def transcribe(self, clips: Sequence[Named], way: Transcribing) -> Sequence[TimedText | str]:
        system, source, target = self._system, way.source_lang, way.target_lang
        decoding = _sampled(system.decoding, way.temperature)
        timed = way.timed and system.writes_speech(source, target)
        transcribe = system.transcribe_timed if timed else system.transcribe
        return transcribe(clips, source_lang=source, target_lang=target, decoding=decoding)

    def answer(self, questions: Sequence[Question], way: Asking) -> Sequence[Answer]:
        """As `Transcriber.ask`, each clip with a question of its own."""
        import torch

        system, model = self._system, self._system.model
        decoding = _sampled(without_guards(system.decoding), way.temperature)
        if decoding.temperature > 0:
            decoding = replace(decoding, top_p=way.top_p or decoding.top_p, seed=way.seed)
        with torch.inference_mode():
            batch = system.read([question.clip for question in questions], self._source_lang, None, ANSWER)
            for clip, question in zip(batch, questions, strict=True):
                clip.asks = question.asks
                if question.earlier:
                    clip.earlier = system.read(question.earlier, self._source_lang, None, ANSWER).clips
            texts, generated = model.generate(batch, system.answering(way.max_tokens, decoding))
        prompts = [model.prompts.render(clip.source_lang, clip.target_lang, clip.task, clip.asks) for clip in batch]
        return [
            Answer(text, prompt.num_tokens, row.speech_vectors, len(row.tokens), row.cut)
            for text, prompt, row in zip(texts, prompts, generated, strict=True)
        ]


def _sampled(decoding: DecodingConfig, temperature: float | None) -> DecodingConfig:
    if temperature is None:
        return decoding
    if temperature > 0:
        # Sampling works without beams.
        return replace(decoding, temperature=temperature, beam_size=1)
    return replace(decoding, temperature=0.0, top_k=0, top_p=1.0)
