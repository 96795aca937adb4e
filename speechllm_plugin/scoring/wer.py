"""Word error rate over a corpus, counted by jiwer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer

from speechllm_plugin.scoring.normalizers import get_normalizer
from speechllm_plugin.text.scripts import has_spaces

Unit = Literal["word", "char"]


def unit_of(language: str) -> Unit:
    """The unit of errors: characters in languages that are written without spaces, words in others."""
    return "word" if has_spaces(language) else "char"


@dataclass(frozen=True)
class WerResult:
    """Counts over all utterances, after normalisation."""

    errors: int
    """Substitutions + deletions + insertions."""

    words: int
    """Words (or characters) of the references."""

    substitutions: int

    deletions: int

    insertions: int

    wer: float
    """``errors / words``, computed by :func:`error_rate`."""

    utterance_errors: list[int]
    """Errors of each utterance."""

    utterance_words: list[int]
    """Words of each utterance's reference."""


def error_rate(errors: int, words: int) -> float:
    """The rate as a fraction, which can exceed 1. Without reference words it is 0 if there are no errors, else
    infinite."""
    if words == 0:
        return math.inf if errors else 0.0
    return errors / words


def word_errors(
    references: Sequence[str],
    hypotheses: Sequence[str],
    normalizer: str = "basic",
    unit: Unit = "word",
    language: str = "",
) -> WerResult:
    """Aligns each hypothesis with its reference and adds up all errors.

    The rate is total errors / total words, not the mean of the utterances' rates. An empty hypothesis costs all words
    of its reference; every word beside an empty reference is an insertion.

    :param normalizer: a name of :func:`~speechllm_plugin.scoring.normalizers.get_normalizer`.
    :param unit: ``"char"`` counts characters except white space, for languages written without spaces.
    :param language: language of the texts.
    """
    if len(references) != len(hypotheses):
        raise ValueError(
            f"`references` and `hypotheses` must be equally many, but are {len(references)} and {len(hypotheses)}."
        )
    if not references:
        return WerResult(0, 0, 0, 0, 0, 0.0, [], [])
    prepare = preparation(normalizer, unit, language)
    output = jiwer.process_words([prepare(text) for text in references], [prepare(text) for text in hypotheses])
    errors = output.substitutions + output.deletions + output.insertions
    words = output.substitutions + output.deletions + output.hits
    counts = [_count(chunks) for chunks in output.alignments]
    return WerResult(
        errors=errors,
        words=words,
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
        wer=error_rate(errors, words),
        utterance_errors=[errors for errors, _ in counts],
        utterance_words=[words for _, words in counts],
    )


def count_units(text: str, normalizer: str, unit: Unit, language: str) -> int:
    """Number of words, or characters, of a text that count."""
    return len(preparation(normalizer, unit, language)(text).split())


def preparation(normalizer: str, unit: Unit, language: str) -> Callable[[str], str]:
    """Gives a function that turns a text into jiwer's input: normalised, with a space between the units."""
    normalize = get_normalizer(normalizer, language)

    def prepare(text: str) -> str:
        words = normalize(text).split()
        return " ".join(words if unit == "word" else "".join(words))

    return prepare


def _count(chunks: Sequence[jiwer.AlignmentChunk]) -> tuple[int, int]:
    """Errors and reference words of one alignment."""
    errors = sum(
        max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        for chunk in chunks
        if chunk.type != "equal"
    )
    return errors, sum(chunk.ref_end_idx - chunk.ref_start_idx for chunk in chunks)
