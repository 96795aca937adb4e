"""Turns the times of a text's pieces into those of its words and of segments such as subtitles have."""

from __future__ import annotations

import re
from collections.abc import Sequence

from speechllm_plugin.alignment.forced import Piece
from speechllm_plugin.alignment.timed_text import Timed

PAUSE = 0.5
"""Seconds of silence between two words that end a segment."""
LONGEST = 10.0
"""Seconds after which a segment ends at the next word, as subtitles do."""
_SENTENCE_END = re.compile(r"[.?!…。？！][\"'”’)\]」』]*$")


def word_spans(text: str, pieces: Sequence[Piece], *, spaces: bool) -> list[tuple[int, int]]:
    """Where the words of a text begin and end, in characters; in a language without spaces, where its pieces do.

    :param spaces: whether the language writes spaces.
    """
    if spaces:
        return [match.span() for match in re.finditer(r"\S+", text)]
    units: list[tuple[int, int]] = []
    for piece in pieces:
        if text[piece.start : piece.end].isspace() or piece.start == piece.end:
            continue
        # A character of several bytes can be several pieces.
        if units and piece.start < units[-1][1]:
            units[-1] = (units[-1][0], max(piece.end, units[-1][1]))
        else:
            units.append((piece.start, piece.end))
    return units


def time_of(
    unit: tuple[int, int], pieces: Sequence[Piece], times: Sequence[tuple[float, float] | None]
) -> tuple[float, float] | None:
    # A piece may begin with the space before its word: its last character tells which word it belongs to.
    own = [time for piece, time in zip(pieces, times, strict=True) if unit[0] < piece.end <= unit[1] and time]
    return (own[0][0], own[-1][1]) if own else None


def interpolate(words: Sequence[tuple[float, float] | None], seconds: float) -> list[tuple[float, float]]:
    """Puts the words without a time evenly between their neighbours."""
    placed: list[tuple[float, float]] = []
    index = 0
    while index < len(words):
        word = words[index]
        if word is not None:
            placed.append(word)
            index += 1
            continue
        last = index
        while last < len(words) and words[last] is None:
            last += 1
        start = placed[-1][1] if placed else 0.0
        following = words[last] if last < len(words) else None
        step = ((following[0] if following else seconds) - start) / (last - index)
        placed += [(start + i * step, start + (i + 1) * step) for i in range(last - index)]
        index = last
    return placed


def segment(text: str, words: Sequence[Timed], units: Sequence[tuple[int, int]]) -> list[Timed]:
    """
    :param units: the characters of each word in the text.
    """
    segments: list[Timed] = []
    first = 0
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else None
        if (
            following is None
            or following.start - word.end > PAUSE
            or following.end - words[first].start > LONGEST
            or _SENTENCE_END.search(word.text)
        ):
            segments.append(Timed(text[units[first][0] : units[i][1]], words[first].start, word.end))
            first = i + 1
    return segments
