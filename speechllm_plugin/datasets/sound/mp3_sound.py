"""Decoding of mp3 from any frame on, to the sample."""

from __future__ import annotations

from collections.abc import Iterator

from speechllm_plugin.datasets.sound.api import Block
from speechllm_plugin.datasets.sound.bytes import ByteRange
from speechllm_plugin.datasets.sound.libsndfile import Opening, SndfileSound
from speechllm_plugin.datasets.sound.mp3 import RUN_UP, Mp3Frames, cut_out, read_frames
from speechllm_plugin.datasets.sound.remembered import Remembered

_frames: Remembered[Mp3Frames | None] = Remembered()


def frames_of_file(data: ByteRange, key: str) -> Mp3Frames | None:
    """The frames of a file, walked over once.

    :param key: changes with the file.
    """
    return _frames.get((key, data.start, data.stop), lambda: read_frames(data))


class Mp3Sound:
    """See `Sound`. What is decoded begins at a frame, and that is all that is ever sought."""

    format = "MP3"

    def __init__(self, data: ByteRange, frames: Mp3Frames) -> None:
        self._data, self._frames = data, frames
        self._opened: SndfileSound | None = None
        first = data.read(frames.places[0], 4)
        self.rate = frames.rate
        self.channels = 1 if first[3] >> 6 == 3 else 2
        self.frames = frames.length
        self.slack = frames.slack
        self.is_estimate = False

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        if start == 0 and length >= self.frames and self._frames.is_tag_right:
            assert self._frames.tag_at is not None
            whole = self._data.part(self._frames.tag_at, self._data.size)
            self._opened = SndfileSound(whole)
            yield from self._opened.blocks(0, length)
            return
        frames = self._frames
        begin = start + frames.lead
        first = max(0, begin // frames.samples_per_frame - RUN_UP)
        # One more than the last sample's: the filters reach into the next frame.
        last = min(frames.count, (begin + length - 1) // frames.samples_per_frame + 2)
        head, part, before = cut_out(self._data, frames, first, last)
        skip = before + begin - first * frames.samples_per_frame
        self._opened = SndfileSound(part, Opening(head=head, skip=skip))
        yield from self._opened.blocks(0, length)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
