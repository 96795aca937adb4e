"""The voices of the demo's speech, as espeak-ng names them: accent, or accent+variant.

Chosen by ear of Whisper tiny.en: of some 120 voices, those that it understands best, without losing women's voices,
which espeak-ng makes less well. Whispering, croaking and robots are left out.
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
"""Voices of training, validation and the seen test set: three ways of speaking, women and men."""

UNSEEN: Sequence[str] = (
    "en-US+edward2", "en-US+klatt4", "en+miguel",  # men
    "en-US+steph", "en+f3",  # women
    "en-US-nyc", "en-US-nyc+edward",  # an accent of its own
)  # fmt: skip
"""Voices of the unseen test set alone."""
