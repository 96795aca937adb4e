"""Cuts a stream into pieces that an encoder can take: at pauses, and where there is none, twice.

A pause of some length always ends a piece: what follows is another utterance, and silence is left out. The longer a
piece is already, the shorter a pause ends it, so that what belongs together stays together where it can. A piece that
becomes too long all the same is cut in the longest pause of its second half, however short. Speech without any pause is
cut where speech is least likely, and both pieces hold what lies around the cut: one of them has each word whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechllm_plugin.recordings.voice import FRAME, VoiceActivity

SAMPLE_RATE = 16000

_ON, _OFF = 0.5, 0.35
"""Speech begins at the one probability and ends below the other, as silero-vad has it."""
_PAD = 0.3
"""Seconds kept before and after speech, at most: the model notices the first sounds up to 0.07 s late, and quiet ones
later."""
_SHORT_PAUSE = 0.16
"""Seconds of silence in which speech that goes on may be cut: longer than the closure of a stop consonant."""
_ENOUGH_AT_LAST = 0.2
"""Seconds of silence that end a piece that is as long as it may be."""
_LAP = 2.0
"""Seconds that two pieces share where there is no pause, at most: some five words."""
_LEAST_SPEECH = 0.1
"""Seconds of speech that a piece must hold: less is a click."""


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    longest: float = 30.0
    """The most seconds that a piece may last: the encoder's window, or less."""
    pause: float = 0.5
    """Seconds of silence that always end a piece; of one that is nearly as long as it may be, less than half of it
    does."""


WINDOW = 30.0
"""Seconds up to which a recording goes whole where the encoder has no window."""
LEAST_PIECE = 2.0
"""Seconds: a shorter limit would cut words more often than not."""


def piece_lengths(window: float | None, trained: float | None) -> tuple[float, float]:
    """
    :param window: seconds that the encoder takes at most; None = any.
    :param trained: seconds of the longest clip that the system has learned from; None = unknown.
    :returns: seconds up to which a recording goes whole, and the most that a piece of a longer one lasts.
    """
    whole = window or WINDOW
    return whole, min(whole, max(LEAST_PIECE, trained or whole))


@dataclass(frozen=True)
class Piece:
    start: int
    """Its first sample in the recording."""
    samples: npt.NDArray[np.float32]
    """`[samples]` at 16 kHz."""
    shared: int = 0
    """How many samples at its beginning are also the end of the piece before."""


def cut(blocks: Iterable[npt.NDArray[np.float32]], config: CutConfig, voice: VoiceActivity) -> Iterator[Piece]:
    """The pieces of a stream, in order; none where nobody speaks. Holds about one piece at a time.

    :param blocks: of the recording, each `[n]`, at 16 kHz.
    :param voice: new, for this stream.
    """
    cutter = _Cutter(config)
    sound, first = np.zeros(0, dtype=np.float32), 0  # what is kept of the stream, and its first sample

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
    """The same in blocks of a second at least: some decoders give 20 ms at a time."""
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
        """In samples."""
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
        self._speech = 0  # frames of it that are speech
        self._quiet: int | None = None  # first frame of the silence that the piece ends in
        self._frames: list[float] = []  # its probabilities, from this frame on:
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
        """Samples of silence that end the piece that began there."""
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
        """Cuts a piece that would become too long, and goes on with what is behind the cut."""
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
        # Nothing that was heard behind the cut is forgotten.
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
    :param frames: probabilities, from frame `first` on, in which somebody speaks.
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
