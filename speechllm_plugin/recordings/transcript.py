"""Joins the text of a recording from the texts of its pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speechllm_plugin.alignment.timed_text import Timed
from speechllm_plugin.recordings.overlap import meet


@dataclass(frozen=True)
class PieceText:
    """The text of one piece."""

    start: float
    """Where the piece begins, in seconds from the start of the recording."""
    end: float
    shared: float
    """Seconds at its beginning that the piece before also holds."""
    segments: tuple[Timed, ...]
    """Segments in order; a piece without words has none."""
    words: tuple[Timed, ...] | None
    """None where no word has a time of its own."""
    placed: float = 0.0
    """Share of the words whose time was read from the audio."""


@dataclass(frozen=True)
class Transcript:
    seconds: float
    """Length of the recording."""
    text: str
    segments: tuple[Timed, ...]
    words: tuple[Timed, ...] | None
    """None where no word has a time of its own."""
    placed: float
    """Share of the words whose time was read from the audio."""


def join(pieces: Sequence[PieceText], seconds: float, *, spaces: bool) -> Transcript:
    """
    :param pieces: in order.
    :param seconds: length of the recording.
    :param spaces: whether the language of the text writes spaces between words.
    """
    lines = [_lines(piece, spaces) for piece in pieces]
    for index in range(1, len(pieces)):
        if pieces[index].shared > 0:
            lines[index - 1], lines[index] = _met(lines[index - 1], lines[index], pieces[index])
    kept = [line for piece in lines for line in piece if line.units]
    timed = bool(pieces) and all(piece.words is not None for piece in pieces)
    glue = " " if spaces else ""
    segments = tuple(line.span(glue) for line in kept)
    weights = [sum(len(line.units) for line in piece) for piece in lines]
    placed = sum(piece.placed * weight for piece, weight in zip(pieces, weights, strict=True))
    return Transcript(
        seconds=seconds,
        text=glue.join(segment.text for segment in segments),
        segments=segments,
        words=tuple(unit for line in kept for unit in line.units) if timed else None,
        placed=placed / max(1, sum(weights)),
    )


@dataclass(frozen=True)
class _Line:
    """A segment whose words can be counted."""

    whole: Timed
    units: tuple[Timed, ...]
    """Words of the segment, with times that are read or estimated."""
    is_whole: bool = True
    timed: bool = True

    def span(self, glue: str) -> Timed:
        if self.is_whole:
            return self.whole
        # A segment that has lost words gets its text, and its times where they are known, from the words that are left.
        text = glue.join(unit.text for unit in self.units)
        return Timed(text, self.units[0].start, self.units[-1].end)

    def part(self, first: int, last: int) -> _Line:
        units = self.units[max(0, first) : max(0, last)]
        return self if len(units) == len(self.units) else _Line(self.whole, units, is_whole=False, timed=self.timed)


def _lines(piece: PieceText, spaces: bool) -> list[_Line]:
    if piece.words is None:
        return [_Line(segment, _estimated(segment, spaces), timed=False) for segment in piece.segments]
    words, lines = list(piece.words), []
    for segment in piece.segments:
        # A segment's words follow one another, and spell it.
        letters, own = len("".join(segment.text.split())), 0
        while words[own:] and letters > 0:
            letters -= len("".join(words[own].text.split()))
            own += 1
        lines.append(_Line(segment, tuple(words[:own])))
        del words[:own]
    return lines


def _estimated(segment: Timed, spaces: bool) -> tuple[Timed, ...]:
    units = segment.text.split() if spaces else list("".join(segment.text.split()))
    step = (segment.end - segment.start) / max(1, len(units))
    starts = [segment.start + step * index for index in range(len(units))]
    return tuple(Timed(unit, start, start + step) for unit, start in zip(units, starts, strict=True))


def _met(before: list[_Line], after: list[_Line], piece: PieceText) -> tuple[list[_Line], list[_Line]]:
    """Both texts without the words that they have twice.

    :param piece: the later piece.
    """
    first, second = ([unit for line in lines for unit in line.units] for lines in (before, after))
    # Estimated times may be wrong by seconds where the speed of speech varies.
    slack = 0.5 if all(line.timed for line in (*before, *after)) else piece.shared
    keep, skip = meet(
        [(unit.text, (unit.start + unit.end) / 2) for unit in first],
        [(unit.text, (unit.start + unit.end) / 2) for unit in second],
        piece.start,
        piece.start + piece.shared,
        slack,
    )
    return _cut_lines(before, 0, keep), _cut_lines(after, skip, len(second))


def _cut_lines(lines: list[_Line], first: int, last: int) -> list[_Line]:
    """The lines with the words from one number to another, counted over all of them."""
    cut, place = [], 0
    for line in lines:
        cut.append(line.part(first - place, last - place))
        place += len(line.units)
    return cut
