"""Contextual biasing: finds phrases in texts, and counts the errors of the words in a list apart from all others.

WER, B-WER and U-WER follow arXiv 2104.02194, section 4.1: errors of all words, of the words in the list, of the others.
The word that decides is that of the reference for a substitution or deletion, and the inserted one for an insertion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jiwer
import numpy as np
from numpy.typing import NDArray

from speechllm_plugin.scoring.wer import Unit, preparation


class PhraseIndex:
    """Phrases, found in texts as whole words."""

    def __init__(self, phrases: Iterable[str], normalizer: str, unit: Unit = "word", language: str = "") -> None:
        """:param unit: `char` for languages that are written without spaces."""
        self._prepare = preparation(normalizer, unit, language)
        self._by_first: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        """By first word: the words of each phrase, and its spelling in the list."""
        for phrase in phrases:
            if words := self.words(phrase):
                self._by_first.setdefault(words[0], []).append((words, phrase))

    def words(self, text: str) -> tuple[str, ...]:
        """The words of a normalised text, which are compared."""
        return tuple(self._prepare(text).split())

    def found_in(self, text: str) -> list[str]:
        """The phrases of a text, as the list writes them, in the text's order, each once."""
        words = self.words(text)
        return list(dict.fromkeys(phrase for _, _, phrase in self._occurrences(words)))

    def marks(self, words: Sequence[str]) -> list[bool]:
        """Whether each word belongs to a phrase."""
        marked = [False] * len(words)
        for start, length, _ in self._occurrences(words):
            marked[start : start + length] = [True] * length
        return marked

    def _occurrences(self, words: Sequence[str]) -> list[tuple[int, int, str]]:
        return [
            (start, len(phrase), written)
            for start, word in enumerate(words)
            for phrase, written in self._by_first.get(word, ())
            if tuple(words[start : start + len(phrase)]) == phrase
        ]


def biased_errors(
    references: Sequence[str], hypotheses: Sequence[str], phrases: Sequence[PhraseIndex]
) -> NDArray[np.float64]:
    """
    :param phrases: the phrases of each text, all with one normaliser and unit.
    :returns: errors and reference words, first for words in the list, then for the others, `[texts, 4]`; their sums are
        the counts of WER.
    """
    counts = np.zeros((len(references), 4))
    for reference, hypothesis, index, count in zip(references, hypotheses, phrases, counts, strict=True):
        wanted, written = index.words(reference), index.words(hypothesis)
        in_reference, in_hypothesis = index.marks(wanted), index.marks(written)
        for chunk in jiwer.process_words(" ".join(wanted), " ".join(written)).alignments[0]:
            named = in_reference[chunk.ref_start_idx : chunk.ref_end_idx]
            inserted = in_hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
            for biased in named:
                count[1 if biased else 3] += 1
            if chunk.type != "equal":
                # A substitution has the same number of words on both sides.
                for biased in named or inserted:
                    count[0 if biased else 2] += 1
    return counts
