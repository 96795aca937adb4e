"""Bytes of a file that is elsewhere, fetched in blocks."""

from __future__ import annotations

from collections import OrderedDict

from typing_extensions import override

from speechllm_plugin.datasets.sound.bytes import ByteRange
from speechllm_plugin.files.remote import RemoteError, RemoteFile

_BLOCK = 1 << 18
"""Bytes that are asked for at least: 256 KiB."""
_MOST_BLOCKS = 32
"""That one request asks for, where a file is read on and on; and that are kept."""


class RemoteBytes(ByteRange):
    """Bytes of a remote file, fetched in blocks when they are asked for; none outside the first range are."""

    def __init__(self, blocks: _Blocks, start: int, stop: int) -> None:
        super().__init__(-1, start, stop)
        self._blocks = blocks

    @classmethod
    def of(cls, file: RemoteFile, start: int, stop: int) -> RemoteBytes:
        """A range that is small is fetched whole.

        :raises RemoteError: it cannot be.
        """
        blocks = _Blocks(file, start, stop)
        if 0 < stop - start <= _MOST_BLOCKS * _BLOCK:
            blocks.read(start, stop - start)
        return cls(blocks, start, stop)

    @property
    def failure(self) -> RemoteError | None:
        """Of the last request."""
        return self._blocks.failure

    @property
    @override
    def is_whole_file(self) -> bool:
        """Whether a descriptor will do: there is none."""
        return False

    @override
    def read(self, position: int, count: int) -> bytes:
        count = max(0, min(count, self.size - position))
        return self._blocks.read(self.start + position, count) if count else b""

    @override
    def part(self, start: int, stop: int) -> RemoteBytes:
        return RemoteBytes(self._blocks, self.start + start, self.start + min(stop, self.size))


class _Blocks:
    """Of a range of a file: those that were read last are kept."""

    def __init__(self, file: RemoteFile, start: int, stop: int) -> None:
        self._file, self._start, self._stop = file, start, stop
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._next, self._ahead = 0, 1
        self.failure: RemoteError | None = None

    def read(self, position: int, count: int) -> bytes:
        begin = position - self._start
        first, last = begin // _BLOCK, (begin + count - 1) // _BLOCK
        data = b"".join(self._block(number, last) for number in range(first, last + 1))
        return data[begin - first * _BLOCK :][:count]

    def _block(self, number: int, last: int) -> bytes:
        if number not in self._kept:
            self._fetch(number, last)
        self._kept.move_to_end(number)
        return self._kept[number]

    def _fetch(self, number: int, last: int) -> None:
        # Who reads on where the last request ended will read on: twice as much each time.
        self._ahead = min(2 * self._ahead, _MOST_BLOCKS) if number == self._next else 1
        self._next = number + max(self._ahead, min(last + 1 - number, _MOST_BLOCKS))
        start, stop = (self._start + block * _BLOCK for block in (number, self._next))
        try:
            data = self._file.read(start, min(stop, self._stop))
        except RemoteError as error:
            self.failure = error
            raise
        for offset in range(0, len(data), _BLOCK):
            self._kept[number + offset // _BLOCK] = data[offset : offset + _BLOCK]
        while len(self._kept) > 2 * _MOST_BLOCKS:
            self._kept.popitem(last=False)
