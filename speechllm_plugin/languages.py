"""Language codes to the names that prompts use."""

from __future__ import annotations

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from speechllm_plugin.errors import UserError


def language_name(code: str) -> str:
    """"en" -> "English". Regional subtags are dropped ("zh-CN" -> "Chinese"); a name stays as it is."""
    base = code.replace("_", "-").split("-")[0].lower()
    if base in LANGUAGES:
        return LANGUAGES[base].title()
    if code.title() in {name.title() for name in LANGUAGES.values()}:
        return code.title()
    raise UserError(f"language: found {code!r}, expected an ISO 639-1 code such as en, de, fr, or an English name")


def language_code(code: str) -> str:
    """The ISO 639-1 code: "en-GB" -> "en", "German" -> "de". Whisper's own where it has another ("jw", Javanese)."""
    return TO_LANGUAGE_CODE[language_name(code).lower()]
