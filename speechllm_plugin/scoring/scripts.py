"""What a language's writing system means for counting words in it."""

from __future__ import annotations

import re

# ISO 639-1 and 639-3 codes, and English names.
_CHINESE = frozenset({"zh", "zho", "cmn", "yue", "chinese", "mandarin", "cantonese"})
_JAPANESE = frozenset({"ja", "jpn", "japanese"})
_OTHERS_WITHOUT_SPACES = frozenset(
    {"th", "tha", "thai", "lo", "lao", "km", "khm", "khmer", "my", "mya", "myanmar", "burmese", "bo", "bod", "tibetan"}
)


def base_language(language: str) -> str:
    """The part of a code before region and script, in lower case: ``zh-CN`` and ``zh_Hans`` -> ``zh``."""
    return re.split("[-_]", language.strip().lower())[0]


def has_spaces(language: str) -> bool:
    """Whether the language puts spaces between words; assumed of languages that are unknown or not stated."""
    return base_language(language) not in _CHINESE | _JAPANESE | _OTHERS_WITHOUT_SPACES


def bleu_tokenizer(language: str) -> str:
    """The sacreBLEU tokeniser for a target language.

    ``13a`` is sacreBLEU's default and ``zh`` its choice for Chinese. The other languages without spaces are scored by
    characters, as CoVoST 2 (arXiv 2007.10310) does for Japanese. sacreBLEU's ``ja-mecab`` needs a dictionary that is
    not installed with it; a choice that depended on what is installed would change scores silently.
    """
    if base_language(language) in _CHINESE:
        return "zh"
    return "13a" if has_spaces(language) else "char"
