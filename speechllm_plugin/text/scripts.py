"""Properties of a language's writing system that matter for counting its words."""

from __future__ import annotations

from langcodes import Language

from speechllm_plugin.text.languages import language_code, parse_language

# Codes of ISO 15924.
_CHINESE = frozenset({"Hani", "Hans", "Hant"})
_OTHERS_WITHOUT_SPACES = frozenset(
    {"Hira", "Hrkt", "Jpan", "Kana", "Khmr", "Lana", "Laoo", "Mymr", "Tale", "Talu", "Thai", "Tibt", "Yiii"}
)
# Languages that CLDR's likely scripts leave out: languages of China and of Tibet, and Rakhine.
_SCRIPTS = {
    **dict.fromkeys(("cdo", "cjy", "cnp", "cpx", "csp", "czh", "czo", "mnp"), "Hans"),
    **dict.fromkeys(("adx", "khg", "lbj", "sip"), "Tibt"),
    "rki": "Mymr",
}


def _script(language: str) -> str | None:
    """The script of texts in the language: the one in its tag (`zh-Latn`), or the usual one."""
    tag = parse_language(language)
    if tag is None:
        return None
    code = language_code(language)
    return tag.script or _SCRIPTS.get(code) or Language.make(code).maximize().script


def has_spaces(language: str) -> bool:
    """Whether the language puts spaces between words; true for languages that are unknown or not stated."""
    return _script(language) not in _CHINESE | _OTHERS_WITHOUT_SPACES


def bleu_tokenizer(language: str) -> str:
    """The sacreBLEU tokeniser for a target language.

    ``13a`` is sacreBLEU's default and ``zh`` its choice for Chinese. The other languages without spaces are scored by
    characters, as CoVoST 2 (arXiv 2007.10310) does for Japanese. sacreBLEU's ``ja-mecab`` needs a dictionary that is
    not installed with it; a choice that depended on what is installed would change scores silently.
    """
    if _script(language) in _CHINESE:
        return "zh"
    return "13a" if has_spaces(language) else "char"
