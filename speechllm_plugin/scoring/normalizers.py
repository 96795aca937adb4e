"""Named normalisers, which make texts comparable before errors are counted.

A word error rate means nothing without the name of the normaliser, so every score has that name.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache, partial
from typing import Literal, get_args

from speechllm_plugin.errors import UserError
from speechllm_plugin.text.languages import language_code

NormalizerName = Literal["none", "basic", "whisper_english", "whisper_basic", "verdini"]

_APOSTROPHES = str.maketrans(
    dict.fromkeys(
        "\u2018\u2019\u201b\u2032\u0060\u00b4"  # quotation marks and accents in an apostrophe's place
        "\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u02c8\ua78b\ua78c"  # letters: Uzbek, Hawaiian, romanised Arabic
        "\u05f3\u055a\u07f4\u07f5\u1fbd\u1fbf",  # Hebrew geresh, Armenian, N'Ko, Greek elision
        "'",
    )
)
_DOTLESS_I = frozenset({"tr", "tur", "turkish", "az", "aze", "azj", "azerbaijani", "crh", "gag"})
"""Languages in which I is the capital of a letter without a dot."""
_DOT_ABOVE, _TATWEEL = "\u0307", "\u0640"
# Variation selectors would be left over where their character is dropped or replaced.
_VARIATION_SELECTORS = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))


def get_normalizer(name: str, language: str = "") -> Callable[[str], str]:
    """The function behind a name.

    ``none``             nothing but white space collapsed
    ``basic``            :func:`normalize_basic`; for every language
    ``whisper_english``  OpenAI's for English: also numbers, contractions, titles and British spellings, and fillers
                         dropped. By transformers, with the table of spellings of whisper-normalizer, which is the one
                         that comes with Whisper checkpoints as ``normalizer.json``.
    ``whisper_basic``    OpenAI's for other languages, by transformers: drops texts in brackets, and marks, which
                         damages scripts that write vowels as marks (Devanagari, Thai); for comparison with published
                         figures
    ``verdini``          as the authors' code of arXiv 2409.17044: lower case, and punctuation taken out without a space
                         in its place, by jiwer ("don't" is dont, "well-known" wellknown)

    :param language: language of the texts, for ``basic``.
    :raises UserError: there is no such normaliser, or its package is not installed.
    """
    if name == "none":
        return collapse_spaces
    if name == "basic":
        return partial(normalize_basic, language=language)
    if name in ("whisper_english", "whisper_basic"):
        whisper = _whisper_english() if name == "whisper_english" else _whisper_basic()
        return lambda text: collapse_spaces(whisper(text))
    if name == "verdini":
        return _verdini()
    raise UserError(f"normalizer: found {name!r}, expected one of {', '.join(get_args(NormalizerName))}")


# transformers is imported inside, since that takes seconds and the other normalisers do not need it. The result is
# cached, since a score asks for it once for each language.
@cache
def _whisper_english() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    try:
        # Only its table is used: its own normaliser has more contractions than OpenAI's and gives other error rates.
        from whisper_normalizer.english import EnglishSpellingNormalizer
    except ImportError as error:
        raise UserError(
            f"normalizer: found 'whisper_english' without the package whisper-normalizer ({error}), expected it "
            "installed: pip install whisper-normalizer"
        ) from error
    return EnglishTextNormalizer(EnglishSpellingNormalizer().mapping)


@cache
def _whisper_basic() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return BasicTextNormalizer()


@cache
def _verdini() -> Callable[[str], str]:
    import jiwer

    transform = jiwer.Compose([jiwer.ToLowerCase(), jiwer.RemovePunctuation()])
    return lambda text: collapse_spaces(transform(text))


def collapse_spaces(text: str) -> str:
    """Runs of white space become one space; none stays at the ends."""
    return " ".join(text.split())


def normalize_basic(text: str, language: str = "") -> str:
    """Lower case, without punctuation and symbols, in any script.

    Punctuation becomes a space ("well-known" counts as two words), but for apostrophes inside words ("don't",
    "l'eau", Uzbek "o'zbek"), whose many characters become one. Compatibility forms (full-width letters, ligatures)
    become plain ones (NFKC). Invisible format characters are removed, as is the Arabic tatweel, which only widens a
    word. Marks stay, since they carry vowels in many scripts.

    :param language: a code or an English name: Turkish and its relatives have the pairs I, \u0131 and \u0130, i.
    """
    # Apostrophes are mapped before NFKC, which would turn an accent into a space and a mark, and again after it, since
    # NFKC turns U+0149 into an apostrophe and n.
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).translate(_APOSTROPHES)
    if language_code(language) in _DOTLESS_I:
        text = text.replace("I", "\u0131")
    # lower() turns the Turkish capital İ into i and a separate dot.
    text = unicodedata.normalize("NFC", text.lower().replace(f"i{_DOT_ABOVE}", "i"))
    characters: list[str] = []
    for index, character in enumerate(text):
        category = unicodedata.category(character)
        if category == "Cf" or character == _TATWEEL or character in _VARIATION_SELECTORS:
            continue
        if character == "'":
            inside = _is_word(text[index - 1 : index]) and _is_word(text[index + 1 : index + 2])
            characters.append("'" if inside else " ")
        elif category[0] in "PSZC":
            characters.append(" ")
        # NFKC turns an accent that stands alone into a mark without a letter.
        elif category[0] != "M" or (characters and characters[-1] != " "):
            characters.append(character)
    return collapse_spaces("".join(characters))


def _is_word(character: str) -> bool:
    return character != "" and unicodedata.category(character)[0] in "LMN"
