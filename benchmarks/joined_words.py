"""Counts what goes wrong where a recording is cut: words in its pauses, words twice, and words that are lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jiwer

from speechllm_plugin.scoring.normalizers import normalize_basic

_NEAR = 0.5
"""Seconds around the edge of a piece in which a mistake counts as one of the cut."""
_SLACK = 0.2
"""Seconds by which the time of a word may be wrong."""


@dataclass(frozen=True)
class Span:
    text: str
    start: float
    end: float
    """Both in seconds of the recording."""


@dataclass(frozen=True)
class Counts:
    words: int
    """In the joined transcript."""
    in_pauses: int
    """Of them, where nobody speaks."""
    doubled: int
    """Words near a cut that were said once."""
    lost: int
    """Words that were said near a cut."""
    lost_elsewhere: int


def count_words(words: Sequence[Span], clips: Sequence[Span], pieces: Iterable[tuple[float, float]]) -> Counts:
    """
    :param words: of the joined transcript.
    :param clips: what was said, and where.
    :param pieces: where each begins and ends.
    """
    said = [Span(token, word.start, word.end) for word in words for token in normalize_basic(word.text).split()]
    meant = normalize_basic(" ".join(clip.text for clip in clips)).split()
    edges = sorted({edge for piece in pieces for edge in piece})

    def near(start: float, end: float) -> bool:
        return any(start - _NEAR <= edge <= end + _NEAR for edge in edges)

    doubled = lost = elsewhere = 0
    aligned = jiwer.process_words(" ".join(meant), " ".join(token.text for token in said))
    for chunk in aligned.alignments[0]:
        if chunk.type == "insert":
            for place in range(chunk.hyp_start_idx, chunk.hyp_end_idx):
                own = said[place]
                doubled += near(own.start, own.end) and _is_said_beside(said, place)
        elif chunk.type == "delete":
            before = said[chunk.hyp_start_idx - 1].end if chunk.hyp_start_idx > 0 else 0.0
            after = said[chunk.hyp_start_idx].start if chunk.hyp_start_idx < len(said) else clips[-1].end
            count = chunk.ref_end_idx - chunk.ref_start_idx
            if near(before, max(before, after)):
                lost += count
            else:
                elsewhere += count
    return Counts(len(said), sum(_is_in_a_pause(word, clips) for word in said), doubled, lost, elsewhere)


def _is_said_beside(words: Sequence[Span], place: int) -> bool:
    own = words[place]
    return any(
        other.text == own.text and other.start <= own.end + _NEAR and other.end >= own.start - _NEAR
        for number, other in enumerate(words)
        if number != place
    )


def _is_in_a_pause(word: Span, clips: Sequence[Span]) -> bool:
    return all(word.end < clip.start - _SLACK or word.start > clip.end + _SLACK for clip in clips)
