"""Decoding of all streams of a flac file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from speechllm_plugin.datasets.sound.api import Block, Joined, Sound
from speechllm_plugin.datasets.sound.bytes import ByteRange
from speechllm_plugin.datasets.sound.flac import find_streams, seems_alone


class FlacSound:
    """See `Sound`. All bytes are searched for further streams only when they are decoded: a length takes two looks into
    the file, as a corpus of millions of files needs it."""

    format = "FLAC"

    def __init__(self, data: ByteRange, open_one: Callable[[ByteRange], Sound]) -> None:
        """
        :raises SoundError: a stream is none, or they differ.
        """
        self._data, self._open_one = data, open_one
        self.is_estimate = seems_alone(data)
        self._sound: Sound = open_one(data) if self.is_estimate else self._joined()
        self.rate, self.channels = self._sound.rate, self._sound.channels
        self.frames = self._sound.frames
        self.slack = 0

    def _joined(self) -> Sound:
        return Joined([self._open_one(part) for part in find_streams(self._data)])

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        if self.is_estimate and length > self.frames and len(find_streams(self._data)) > 1:
            self._sound.close()
            self._sound = self._joined()
        yield from self._sound.blocks(start, min(length, self._sound.frames))

    def close(self) -> None:
        self._sound.close()
