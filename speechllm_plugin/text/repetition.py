"""Finds texts that repeat themselves (arXiv 2212.04356, section 4.5), for decoding and for scores."""

from __future__ import annotations

import zlib

LOOP_RATIO = 2.4
"""Whisper's limit: a text that zlib shrinks more than this many times repeats itself."""
_MIN_BYTES = 40


def compression_ratio(text: str) -> float:
    """How many times zlib shrinks a text in UTF-8: about 1 to 2 for language, above 2.4 for loops.

    0 for a text below 40 bytes, which compresses badly in any case, so that its ratio tells nothing.
    """
    data = text.encode("utf-8", errors="replace")
    return len(data) / len(zlib.compress(data)) if len(data) >= _MIN_BYTES else 0.0
