"""Transcribes recordings: decodes the pieces of all of them in batches, and joins the texts of each recording."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from speechllm_plugin.alignment.timed_text import Timed, TimedText
from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.errors import ClipError, UserError
from speechllm_plugin.inference.reading import Named
from speechllm_plugin.recordings.cutting import Piece
from speechllm_plugin.recordings.hearing import Hearing
from speechllm_plugin.recordings.transcript import PieceText, Transcript, join
from speechllm_plugin.text.scripts import has_spaces

Decode = Callable[[Sequence[Named], str, str | None], Sequence[TimedText | str]]
"""Decodes clips, given the languages of speech and text, to texts, plain ones where words have no times. The language
of the text is None for recognition."""


@dataclass(eq=False)
class Recording:
    """A recording to transcribe, with its texts so far."""

    name: str
    """Name in messages."""
    hearing: Hearing
    source_lang: str = "en"
    target_lang: str | None = None
    known: Sequence[PieceText] = ()
    """Texts of its first pieces from an earlier run."""
    texts: list[PieceText | None] = field(default_factory=list)
    """A text for each piece so far; None while it waits to be decoded."""
    error: UserError | None = None
    """Why there is no transcript."""
    transcript: Transcript | None = None


def transcribe(
    recordings: Iterable[Recording],
    decode: Decode,
    *,
    batch_size: int,
    decode_pieces: Decode | None = None,
    keep: Callable[[Recording, int, PieceText], None] = lambda recording, number, text: None,
) -> Iterator[Recording]:
    """Yields each recording with its transcript or its error, in order. Holds at most a batch of pieces.

    :param batch_size: pieces that are decoded together, of one recording or of several.
    :param decode_pieces: decodes pieces of recordings that are cut, whose words are joined by their times. None =
        `decode`.
    :param keep: is called with each new text and the number of its piece, for each recording in order.
    """
    batcher = _Batcher(decode, decode_pieces or decode, keep)
    under_way: deque[Recording] = deque()
    for recording in recordings:
        under_way.append(recording)
        for piece in _pieces(recording):
            batcher.add(recording, piece)
            if len(batcher.waiting) == batch_size:
                batcher.decode()
                if recording.error is not None:
                    break
                while under_way[0] is not recording and _is_complete(under_way[0]):
                    yield _finished(under_way.popleft())
        if recording.error is not None:
            batcher.forget(recording)
    batcher.decode()
    yield from map(_finished, under_way)


def _pieces(recording: Recording) -> Iterator[Piece]:
    try:
        yield from recording.hearing
    except UserError as error:
        recording.error = error


_Waiting = tuple[Recording, int, Piece]
"""A piece, and its number in its recording."""


class _Batcher:
    def __init__(
        self, decode: Decode, decode_pieces: Decode, keep: Callable[[Recording, int, PieceText], None]
    ) -> None:
        self._decoders, self._keep = {False: decode, True: decode_pieces}, keep
        self.waiting: list[_Waiting] = []

    def add(self, recording: Recording, piece: Piece) -> None:
        number = len(recording.texts)
        known = recording.known[number] if number < len(recording.known) else None
        start, end, shared = _seconds(piece)
        if known is not None and (known.start, known.end, known.shared) == (start, end, shared):
            recording.texts.append(known)
            return
        recording.known = ()
        recording.texts.append(None)
        self.waiting.append((recording, number, piece))

    def forget(self, recording: Recording) -> None:
        self.waiting = [entry for entry in self.waiting if entry[0] is not recording]

    def decode(self) -> None:
        waiting, self.waiting = self.waiting, []
        for _, group in groupby(waiting, _kind):
            self._decode_alike(list(group))

    def _decode_alike(self, entries: Sequence[_Waiting]) -> None:
        """A clip that cannot be decoded does not cost its neighbours: each half of its batch is decoded by itself."""
        entries = [entry for entry in entries if entry[0].error is None]
        if not entries:
            return
        source, target, is_long = _kind(entries[0])
        clips = [_clip(recording, piece) for recording, _, piece in entries]
        try:
            texts = self._decoders[is_long](clips, source, target)
        except ClipError as error:
            if len(entries) == 1:
                entries[0][0].error = error
                return
        else:
            for (recording, number, piece), text in zip(entries, texts, strict=True):
                recording.texts[number] = placed = place(piece, text)
                self._keep(recording, number, placed)
            return
        middle = len(entries) // 2
        self._decode_alike(entries[:middle])
        self._decode_alike(entries[middle:])


def _kind(entry: _Waiting) -> tuple[str, str | None, bool]:
    recording = entry[0]
    return recording.source_lang, recording.target_lang, recording.hearing.is_long


def _clip(recording: Recording, piece: Piece) -> Named:
    name = f"{recording.name} at {piece.start / SAMPLE_RATE:.2f} s" if recording.hearing.is_long else recording.name
    return Named(name, piece.samples)


def _seconds(piece: Piece) -> tuple[float, float, float]:
    end = piece.start + len(piece.samples)
    # Rounded to milliseconds, since the times are compared with those that were written to a file.
    start, last, shared = (round(samples / SAMPLE_RATE, 3) for samples in (piece.start, end, piece.shared))
    return start, last, shared


def place(piece: Piece, text: TimedText | str) -> PieceText:
    """The text of a piece with the times of its recording."""
    start, end, shared = _seconds(piece)
    if isinstance(text, str):
        segments = (Timed(text, start, end),) if text.strip() else ()
        return PieceText(start, end, shared, segments, words=None)
    if not text.text.strip():
        return PieceText(start, end, shared, segments=(), words=(), placed=text.placed)

    def moved(spans: Sequence[Timed]) -> tuple[Timed, ...]:
        return tuple(Timed(span.text, start + span.start, start + span.end) for span in spans)

    return PieceText(start, end, shared, moved(text.segments), moved(text.words), text.placed)


def _is_complete(recording: Recording) -> bool:
    return recording.error is not None or None not in recording.texts


def _finished(recording: Recording) -> Recording:
    if recording.error is None:
        pieces = [text for text in recording.texts if text is not None]
        language = recording.target_lang or recording.source_lang
        recording.transcript = join(pieces, recording.hearing.seconds, spaces=has_spaces(language))
    return recording
