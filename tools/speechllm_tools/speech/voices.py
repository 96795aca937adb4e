"""The voices of the embedded synthesiser, as espeak-ng names them: accent, or accent+variant.

Whisper tiny.en understands these voices best among some 120; women's voices, which espeak-ng makes less well, are kept
all the same. Whispering, croaking and robots are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

SEEN: Sequence[str] = (
    "en-US", "en-US+adam", "en-US+benjamin", "en-US+edward", "en-US+f2", "en-US+f5", "en-US+klatt5", "en-US+m3",
    "en-US+m5", "en-US+Mike", "en-US+steph2", "en-US+victor",
    "en", "en+edward", "en+f2", "en+f5", "en+m3",
    "en-GB-x-rp", "en-GB-x-rp+benjamin", "en-GB-x-rp+f5",
    "en-GB-x-gbclan", "en-GB-x-gbclan+edward",
)  # fmt: skip
"""Voices of the demo's training, validation and seen test set: three accents of English, women and men."""

UNSEEN: Sequence[str] = (
    "en-US+edward2", "en-US+klatt4", "en+miguel",  # men
    "en-US+steph", "en+f3",  # women
    "en-US-nyc", "en-US-nyc+edward",  # an accent of its own
)  # fmt: skip
"""Voices of the demo's unseen test set alone."""

VARIANTS: Sequence[str] = ("f2", "f5", "m3", "m5", "edward", "benjamin", "steph2", "victor")
"""Variants in `SEEN` that work with any language."""


def voices_of(language: str) -> list[str]:
    """
    :param language: an ISO 639 code, also of a language that espeak-ng does not speak.
    """
    return list(SEEN) if language == "en" else [language, *(f"{language}+{variant}" for variant in VARIANTS)]
