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
    """In order and without overlap. Where the language writes no spaces, the pieces that were aligned."""
    segments: list[Timed]
    """The words between pauses, ends of sentences, and at most `words.LONGEST` seconds."""
    placed: float
    """Share of the words whose time was read from the audio; the others stand evenly between their neighbours. 0 where
    nothing was aligned: a translation, or a text that is too long for its audio."""
