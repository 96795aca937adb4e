"""Decodes mp3 from any frame on, exact to the sample."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from speechllm_plugin.datasets.sound.api import Block
from speechllm_plugin.datasets.sound.libsndfile import Opening, SndfileSound
from speechllm_plugin.datasets.sound.mp3 import RUN_UP, Mp3Frames, cut_out, read_frames
from speechllm_plugin.datasets.sound.remembered import Remembered
from speechllm_plugin.files.byte_range import ByteRange

_frames: Remembered[Mp3Frames | None] = Remembered()


def streams_of_file(data: ByteRange, key: str) -> list[tuple[ByteRange, Mp3Frames]]:
    """The streams of a file, each of one rate and number of channels, nearly always one; empty where the file is no
    mp3. Each file is walked over once.

    :param key: a key that changes with the file.
    """
    streams = []
    rest: ByteRange | None = data
    while rest is not None:
        frames = _frames.get((key, rest.start, rest.stop), partial(read_frames, rest))
        if frames is None or not frames.count:
            break
        end = rest.size if frames.other_at is None else frames.other_at
        streams.append((rest.part(0, end), frames))
        rest = rest.part(end, rest.size) if end < rest.size else None
    return streams


class Mp3Sound:
    """See `Sound`. Decoding begins at a frame; the decoder itself never seeks."""

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
        # One frame more than the last sample needs, since the filters reach into the next frame.
        last = min(frames.count, (begin + length - 1) // frames.samples_per_frame + 2)
        head, part, before = cut_out(self._data, frames, first, last)
        skip = before + begin - first * frames.samples_per_frame
        self._opened = SndfileSound(part, Opening(head=head, skip=skip))
        yield from self._opened.blocks(0, length)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
