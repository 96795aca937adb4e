"""Codes and names of languages, by langcodes (CLDR and the registry of BCP 47)."""

from __future__ import annotations

import re
from functools import cache

import langcodes
from langcodes import Language

from speechllm_plugin.errors import UserError

# Codes of one language in speech models and corpora that langcodes takes for two: "Norwegian" alone is Bokmål
# (Whisper's `no`, FLEURS' `nb_no`); `zlm` and `pbt` are SeamlessM4T's codes of Malay and Pashto.
_SAME = {"nb": "no", "zlm": "ms", "pbt": "ps"}
# Whisper's names where langcodes has others; the prompts of trained systems have them.
_NAMES = {"bn": "Bengali", "fil": "Tagalog", "mi": "Maori", "my": "Myanmar", "nn": "Nynorsk"}
# Codes that stand for no language, or for none in particular.
_NO_LANGUAGE = frozenset({"mis", "mul", "und", "zxx"})


@cache
def parse_language(language: str) -> Language | None:
    """The language with its script and region; None if it is not known.

    :param language: a code of ISO 639-1, -2 or -3, in capitals or not, a tag ("pt-BR", "cmn_hans_cn", "zh-min-nan"),
        or a name ("German", "Mandarin").
    """
    try:
        tag = langcodes.get(language.strip())
        if Language.make(tag.language).is_valid() and tag.language is not None:
            return tag
    except ValueError:
        pass
    try:
        # `get` replaces older codes by today's: "Tagalog" is found as `tl`, which becomes `fil`.
        return langcodes.get(langcodes.find(language.strip(), "en").to_tag())
    except LookupError:
        return None


@cache
def language_code(language: str) -> str:
    """One code for all codes and names of a language: "en", "EN", "en-US", "eng" and "English" -> "en".

    It is that of ISO 639-1, or of 639-3 where there is none ("ceb"). Script and region are dropped. The code of a
    macrolanguage takes the place of its main language's: "cmn" -> "zh", "arb" -> "ar", but "yue" and "arz" stay.
    An unknown language stays as it is, in lower case.
    """
    tag = parse_language(language)
    if tag is None:
        return language.strip().lower()
    code = tag.extlangs[0] if tag.extlangs else str(tag.language)
    if len(code) > 2:
        code = str(langcodes.get(code).prefer_macrolanguage().language)
    return _SAME.get(code, code)


@cache
def language_name(language: str) -> str:
    """The English name, for prompts: "de", "deu", "de_AT" -> "German".

    :raises UserError: there is no such language.
    """
    code = language_code(language)
    if parse_language(language) is not None and code not in _NO_LANGUAGE:
        name = _NAMES.get(code) or langcodes.get(code).language_name("en")
        if not name.startswith("Unknown language"):
            return re.sub(r" \(.*\)$", "", name)
    raise UserError(
        f"language: found {language!r}, expected a code of ISO 639 such as en, deu, pt-BR, or an English name"
    )


def is_translation(source_lang: str, target_lang: str | None) -> bool:
    """Whether a text is in another language than its speech. Without a target language it is a transcript."""
    return bool(target_lang) and language_code(str(target_lang)) != language_code(source_lang)


def direction_of(source_lang: str, target_lang: str | None) -> str:
    """``en-de`` for a translation, ``en`` for a transcription; ``und`` (undetermined) for a language that is not
    stated. The spelling of the languages does not matter: ``eng`` and ``German`` give ``en-de``, too."""
    source = language_code(source_lang) or "und"
    return f"{source}-{language_code(str(target_lang))}" if is_translation(source_lang, target_lang) else source
