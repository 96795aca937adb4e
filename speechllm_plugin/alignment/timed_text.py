"""Text with the times at which it was said."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timed:
    """A stretch of text with its time, in seconds from the start of the clip or of the recording."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class TimedText:
    text: str
    words: list[Timed]
    """Words in order, without overlap; in languages without spaces, the pieces that were aligned."""
    segments: list[Timed]
    """Stretches of words that end at a pause, at the end of a sentence, or after `words.LONGEST` seconds."""
    placed: float
    """Share of the words whose time was read from the audio; the others are spread evenly between their neighbours. 0
    where nothing was aligned, as in a translation or a text that is too long for its audio."""
