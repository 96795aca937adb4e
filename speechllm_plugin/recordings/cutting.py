"""Cuts a stream into pieces that an encoder can take: at pauses, or with an overlap where there is no pause.

A pause of a certain length always ends a piece: another utterance follows, and silence is left out. The longer a piece
already is, the shorter the pause that ends it, so that sentences stay together where possible. A piece that becomes too
long in spite of this is cut in the longest pause of its second half. Speech without any pause is cut where speech is
least likely, and both pieces hold the sound around the cut, so that each word is whole in one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechllm_plugin.recordings.voice import FRAME, VoiceActivity

SAMPLE_RATE = 16000

_ON, _OFF = 0.5, 0.35
"""Probabilities at which speech begins, and below which it ends, as in silero-vad."""
_PAD = 0.3
"""Seconds kept before and after speech, at most: the model notices the first sounds up to 0.07 s late, and quiet ones
later."""
_SHORT_PAUSE = 0.16
"""Seconds of silence in which continuous speech may be cut: longer than the closure of a stop consonant."""
_ENOUGH_AT_LAST = 0.2
"""Seconds of silence that end a piece of the greatest length."""
_LAP = 2.0
"""Most seconds that two pieces share where there is no pause: about five words."""
_LEAST_SPEECH = 0.1
"""Least seconds of speech in a piece: less is a click."""


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    longest: float = 30.0
    """Most seconds of a piece: the encoder's window, or less."""
    pause: float = 0.5
    """Seconds of silence that always end a piece; less than half of it ends a piece of nearly the greatest length."""


WINDOW = 30.0
"""Seconds up to which a recording is decoded whole where the encoder has no window."""
LEAST_PIECE = 2.0
"""Least seconds for the limit of a piece: shorter pieces would cut most words."""


def piece_lengths(window: float | None, trained: float | None) -> tuple[float, float]:
    """
    :param window: seconds that the encoder takes at most; None = any.
    :param trained: seconds of the longest clip that the system was trained on; None = unknown.
    :returns: seconds up to which a recording is decoded whole, and the most seconds of a piece of a longer one.
    """
    whole = window or WINDOW
    return whole, min(whole, max(LEAST_PIECE, trained or whole))


@dataclass(frozen=True)
class Piece:
    start: int
    """The piece's first sample in the recording."""
    samples: npt.NDArray[np.float32]
    """`[samples]` at 16 kHz."""
    shared: int = 0
    """Number of samples at its beginning that are also the end of the piece before."""


def cut(blocks: Iterable[npt.NDArray[np.float32]], config: CutConfig, voice: VoiceActivity) -> Iterator[Piece]:
    """The pieces of a stream, in order; none where nobody speaks. Holds about one piece at a time.

    :param blocks: the recording, in blocks `[n]` at 16 kHz.
    :param voice: a new detector for this stream.
    """
    cutter = _Cutter(config)
    sound, first = np.zeros(0, dtype=np.float32), 0  # the kept part of the stream, and its first sample

    def piece(span: _Span) -> Piece:
        end = min(span.end, first + len(sound))
        return Piece(span.start, sound[span.start - first : end - first].copy(), span.shared)

    for block in _seconds(blocks):
        sound = np.concatenate([sound, block])
        for probability in voice.feed(block):
            yield from map(piece, cutter.step(float(probability)))
        needed = cutter.needed - first
        sound, first = sound[needed:], first + needed
    for probability in voice.finish():
        yield from map(piece, cutter.step(float(probability)))
    yield from map(piece, cutter.finish(first + len(sound)))


def _seconds(blocks: Iterable[npt.NDArray[np.float32]]) -> Iterator[npt.NDArray[np.float32]]:
    """The same stream in blocks of at least a second, since some decoders give 20 ms at a time."""
    waiting: list[npt.NDArray[np.float32]] = []
    length = 0
    for block in blocks:
        waiting.append(block)
        length += len(block)
        if length >= SAMPLE_RATE:
            yield np.concatenate(waiting)
            waiting, length = [], 0
    if waiting:
        yield np.concatenate(waiting)


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    shared: int


@dataclass(frozen=True)
class _Quiet:
    """A run of frames without speech, from the first to one past the last."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def middle(self) -> int:
        """The middle of the run, in samples."""
        return (self.start + self.end) * FRAME // 2


class _Cutter:
    def __init__(self, config: CutConfig) -> None:
        self._longest = int(config.longest * SAMPLE_RATE)
        self._pause = config.pause * SAMPLE_RATE
        self._lap = int(min(_LAP, config.longest / 4) * SAMPLE_RATE)
        self._next = 0  # the frame whose probability comes next
        self._last_end = 0  # sample at which the last piece ended
        self._speaking = False
        self._begin: int | None = None  # first sample of the piece in progress
        self._shared = 0
        self._speech = 0  # frames of that piece that are speech
        self._quiet: int | None = None  # first frame of the silence that the piece ends in
        self._frames: list[float] = []  # probabilities of the piece's frames, from this frame on:
        self._first_frame = 0

    @property
    def needed(self) -> int:
        """The first sample that a piece may still hold."""
        if self._begin is not None:
            return self._begin
        return max(self._last_end, self._next * FRAME - int(_PAD * SAMPLE_RATE))

    def step(self, probability: float) -> Iterator[_Span]:
        frame = self._next
        self._next += 1
        if probability >= _ON:
            if self._begin is None:
                self._open(max(self._last_end, frame * FRAME - int(_PAD * SAMPLE_RATE)), 0)
            self._speaking, self._quiet = True, None
        elif probability < _OFF and self._speaking:
            self._speaking, self._quiet = False, frame
        if self._begin is None:
            return
        self._speech += self._speaking
        if not self._frames:
            self._first_frame = frame
        self._frames.append(probability)
        if self._quiet is not None and (quiet := (self._next - self._quiet) * FRAME) >= self._enough(self._begin):
            yield from self._close(self._quiet * FRAME + min(int(_PAD * SAMPLE_RATE), quiet // 2))
        elif (self._next + 1) * FRAME - self._begin > self._longest:
            yield from self._divide()

    def _enough(self, begin: int) -> float:
        """Samples of silence that end a piece that began at `begin`."""
        assert self._quiet is not None
        share = (self._quiet * FRAME - begin) / self._longest
        return self._pause - share * max(0.0, self._pause - _ENOUGH_AT_LAST * SAMPLE_RATE)

    def finish(self, total: int) -> Iterator[_Span]:
        """
        :param total: samples of the whole stream.
        """
        if self._begin is not None:
            end = total if self._quiet is None else self._quiet * FRAME + int(_PAD * SAMPLE_RATE)
            yield from self._close(min(end, total))

    def _open(self, begin: int, shared: int) -> None:
        self._begin, self._shared, self._speech, self._frames, self._quiet = begin, shared, 0, [], None

    def _close(self, end: int) -> Iterator[_Span]:
        assert self._begin is not None
        if self._shared or self._speech * FRAME >= _LEAST_SPEECH * SAMPLE_RATE:
            yield _Span(self._begin, end, self._shared)
            self._last_end = end
        self._begin, self._frames, self._quiet, self._speaking = None, [], None, False

    def _divide(self) -> Iterator[_Span]:
        """Cuts a piece that would become too long, and goes on after the cut."""
        assert self._begin is not None
        frames, first, now = self._frames, self._first_frame, self._next
        half = self._begin + self._longest // 2
        pauses = [
            quiet for quiet in _quiet_runs(frames, first)
            if quiet.length * FRAME >= _SHORT_PAUSE * SAMPLE_RATE and quiet.middle >= half
        ]  # fmt: skip
        if pauses:
            pause = max(pauses, key=lambda quiet: (quiet.length, quiet.start))
            end = begin = pause.middle
            again, shared = pause.end, 0
        else:
            middle = self._deepest(frames, first, half, now * FRAME - self._lap // 2) * FRAME + FRAME // 2
            end, begin = middle + self._lap // 2, middle - self._lap // 2
            again, shared = begin // FRAME, self._lap
        yield from self._close(end)
        self._last_end = begin
        if again < now:
            self._open(begin, shared)
            self._speaking = True
        # The frames after the cut are processed again for the next piece.
        self._next = again
        for probability in frames[again - first :]:
            yield from self.step(probability)

    def _deepest(self, frames: list[float], first: int, start: int, end: int) -> int:
        """The frame between two samples around which speech is least likely."""
        low = max(0, start // FRAME - first)
        high = max(low + 1, end // FRAME - first)
        smooth = np.convolve(np.pad(frames, 1, mode="edge"), np.ones(3) / 3, mode="valid")
        return first + low + int(np.argmin(smooth[low:high]))


def _quiet_runs(frames: list[float], first: int) -> Iterator[_Quiet]:
    """
    :param frames: probabilities of speech, from frame `first` on.
    """
    speaking, start = True, first
    for frame, probability in enumerate(frames, start=first):
        if speaking and probability < _OFF:
            speaking, start = False, frame
        elif not speaking and probability >= _ON:
            speaking = True
            yield _Quiet(start, frame)
    if not speaking:
        yield _Quiet(start, first + len(frames))
