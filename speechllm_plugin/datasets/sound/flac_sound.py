"""Decodes all streams of a flac file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from speechllm_plugin.datasets.sound.api import Block, Sound
from speechllm_plugin.datasets.sound.flac import find_streams, seems_alone
from speechllm_plugin.datasets.sound.joined import join
from speechllm_plugin.datasets.sound.libsndfile import SndfileSound
from speechllm_plugin.files.byte_range import ByteRange

# libFLAC reads 8 KiB at a time; a whole further stream may lie in the bytes that it has read ahead.
_READ_AHEAD = 1 << 16


class FlacSound:
    """See `Sound`. The length takes only two reads of the file, since a corpus may have millions of files. Further
    streams are searched for only after the first was decoded, and only behind it."""

    format = "FLAC"

    def __init__(self, data: ByteRange, name: str, open_one: Callable[[ByteRange], SndfileSound]) -> None:
        """
        :param name: what the user calls the file, for notes.
        :raises SoundError: a stream cannot be opened.
        """
        self._data, self._name, self._open_one = data, name, open_one
        self.is_estimate = seems_alone(data)
        parts = [data] if self.is_estimate else find_streams(data)
        self._opened = [open_one(part) for part in parts]
        self._sound: Sound = join(self._opened, name)
        self.rate, self.channels = self._sound.rate, self._sound.channels
        self.frames = self._sound.frames
        self.slack = 0

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        done = 0
        for block in self._sound.blocks(start, min(length, self.frames - start)):
            done += len(block)
            yield block
        if self.is_estimate and start + length > self.frames and start + done == self.frames:
            yield from self._further(length - done)

    def _further(self, length: int) -> Iterator[Block]:
        """Up to `length` samples of the streams after the first."""
        first = self._opened[0]
        parts = find_streams(self._data, max(1, first.read_to - _READ_AHEAD))
        if parts:
            self._opened += [self._open_one(part) for part in parts]
            yield from join(self._opened, self._name).blocks(self.frames, length)

    def close(self) -> None:
        for sound in self._opened:
            sound.close()
