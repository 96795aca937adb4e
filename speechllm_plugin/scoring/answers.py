"""Scores of answers: exact match and token F1 as in SQuAD (arXiv 1606.05250, section 6.1), and refusals."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from speechllm_plugin.scoring.normalizers import collapse_spaces
from speechllm_plugin.text.scripts import has_spaces

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'"})
_REFUSAL = re.compile(
    r"\b(?:as an ai\b|i(?:'m| am) (?:just |only )?an ai\b|i(?:'m| am) (?:so |very |really )?sorry\b"
    r"|i (?:can(?:'t|not)|can not|could(?:n't| not)|am unable to|am not able to|won't|will not)\b"
    r"|i'm (?:unable|not able) to\b|i (?:do not|don't) (?:know|understand|have (?:access|enough|any information))\b"
    r"|i apologi[sz]e\b|unfortunately,? i\b|(?:not|isn't) (?:able|possible) for me\b)"
)
_BEGINNING = 120
"""Characters of an answer that are searched for a refusal; later ones may say sorry for other reasons."""


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, as in SQuAD's own script."""
    return collapse_spaces(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)))


def exact_match(answer: str, references: Sequence[str]) -> bool:
    """Whether the answer is one of the references."""
    return normalize_answer(answer) in map(normalize_answer, references)


def token_f1(answer: str, references: Sequence[str], language: str = "") -> float:
    """F1 with the nearest reference, 0 to 1: the harmonic mean of the shares of common words in both texts. If a text
    has no words, 1 where both have none and 0 otherwise.

    :param language: language of all texts; characters count where it writes no spaces between words.
    """
    return max(_token_f1(answer, reference, language) for reference in references)


def _token_f1(answer: str, reference: str, language: str) -> float:
    found, expected = (_tokens(text, language) for text in (answer, reference))
    if not found or not expected:
        return float(found == expected)
    common = (Counter(found) & Counter(expected)).total()
    return 2 * common / (len(found) + len(expected))


def is_refusal(answer: str) -> bool:
    """Whether an English answer begins by refusing, judged by patterns, which err both ways."""
    return _REFUSAL.search(answer[:_BEGINNING].lower().translate(_APOSTROPHES)) is not None


def _tokens(text: str, language: str) -> list[str]:
    words = normalize_answer(text).split()
    return words if has_spaces(language) else list("".join(words))
