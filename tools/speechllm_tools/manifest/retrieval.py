"""Finds phrases that a clip may contain, among thousands, by the text of a first pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechllm_plugin.errors import UserError
from speechllm_plugin.scoring.biasing import PhraseIndex


class Retriever:
    """Ranks phrases by their likeness, 0 to 100, to the most similar stretch of a text. It counts edit operations on
    characters without spaces, since a name is often written as two words."""

    def __init__(self, phrases: Sequence[str], index: PhraseIndex) -> None:
        """
        :param index: normalises texts and phrases.
        :raises UserError: rapidfuzz is not installed.
        """
        try:
            from rapidfuzz import fuzz, process
        except ImportError:
            raise UserError("--first-pass: found no rapidfuzz (pip install 'speechllm-plugin[biasing]'), expected it "
                            "installed") from None
        self._cdist: Any = process.cdist
        self._ratio: Any = fuzz.ratio
        self._index = index
        self._phrases = list(phrases)
        self._groups: dict[int, tuple[list[int], list[str]]] = {}
        """By number of words: the places of such phrases, and the phrases without spaces."""
        for place, phrase in enumerate(phrases):
            words = index.words(phrase)
            places, joined = self._groups.setdefault(len(words), ([], []))
            places.append(place)
            joined.append("".join(words))

    def best(self, text: str, count: int) -> list[str]:
        """The `count` most similar phrases, the most similar first, and equally similar ones in the list's order."""
        scores = self.scores(text)
        order = np.argsort(-scores, kind="stable")[:count]
        return [self._phrases[place] for place in order]

    def scores(self, text: str) -> NDArray[np.float32]:
        """The likeness of each phrase, `[phrases]`."""
        words = self._index.words(text)
        scores = np.zeros(len(self._phrases), dtype=np.float32)
        if not words:
            return scores
        for size, (places, joined) in self._groups.items():
            # Stretches may have a word more or less, since a first pass may split a word or join two.
            stretches = [
                "".join(words[start : start + length])
                for length in range(max(1, size - 1), size + 2)
                for start in range(max(1, len(words) - length + 1))
            ]
            found = self._cdist(joined, sorted(set(stretches)), scorer=self._ratio, dtype=np.float32)
            scores[places] = found.max(axis=1)
        return scores
