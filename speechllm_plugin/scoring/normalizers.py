"""Named ways of making texts comparable before errors are counted.

A word error rate means nothing without the name of the normaliser, so that name travels with every score.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Literal

from speechllm_plugin.errors import UserError

NormalizerName = Literal["none", "basic", "whisper_english", "whisper_basic"]

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u02b9\u0060\u00b4\u2032", "'"))


def get_normalizer(name: str) -> Callable[[str], str]:
    """The function behind a name.

    ``none``             nothing but white space collapsed
    ``basic``            :func:`normalize_basic`; for every language
    ``whisper_english``  transformers' ``EnglishTextNormalizer``: also numbers, contractions, titles, and fillers
                         dropped. Its table of British spellings comes with Whisper checkpoints, not with
                         transformers, and is not applied.
    ``whisper_basic``    transformers' ``BasicTextNormalizer``: drops texts in brackets, and marks, which damages
                         scripts that write vowels as marks (Devanagari, Thai); for comparison with published figures

    :raises UserError: there is none of that name.
    """
    if name == "none":
        return collapse_spaces
    if name == "basic":
        return normalize_basic
    if name in ("whisper_english", "whisper_basic"):
        # Here, because importing transformers takes seconds and the other normalisers do not need it.
        from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

        whisper = EnglishTextNormalizer({}) if name == "whisper_english" else BasicTextNormalizer()
        return lambda text: collapse_spaces(whisper(text))
    raise UserError(f"normalizer: found {name!r}, expected none, basic, whisper_english or whisper_basic")


def collapse_spaces(text: str) -> str:
    """Runs of white space become one space; none stays at the ends."""
    return " ".join(text.split())


def normalize_basic(text: str) -> str:
    """Lower case, without punctuation and symbols, in any script.

    Punctuation becomes a space ("well-known" counts as two words), but for apostrophes inside words ("don't",
    "l'eau"), whose several characters become one. Compatibility forms (full-width letters, ligatures) become the
    plain ones (NFKC); invisible format characters go; marks stay, for they carry vowels in many scripts.
    """
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    characters = []
    for index, character in enumerate(text):
        category = unicodedata.category(character)
        if category == "Cf":
            continue
        if character == "'":
            inside = _is_word(text[index - 1 : index]) and _is_word(text[index + 1 : index + 2])
            characters.append("'" if inside else " ")
        else:
            characters.append(" " if category[0] in "PSZC" else character)
    return collapse_spaces("".join(characters))


def _is_word(character: str) -> bool:
    return character != "" and unicodedata.category(character)[0] in "LMN"
