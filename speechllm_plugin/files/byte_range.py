"""Bytes on disk: a range of a file, and a file-like object that puts other bytes before it."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

_BLOCK = 1 << 20


class ByteRange:
    """Bytes `start` to `stop` of an open file, read by position, independently of other readers."""

    def __init__(self, descriptor: int, start: int, stop: int) -> None:
        self.descriptor, self.start, self.stop = descriptor, start, stop

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def is_whole_file(self) -> bool:
        return self.start == 0 and self.stop == os.fstat(self.descriptor).st_size

    def rewind(self) -> None:
        """Seeks to the beginning, for a decoder that reads the file itself and not by position."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)

    def read(self, position: int, count: int) -> bytes:
        """`count` bytes from `position` of the range on, or fewer at its end."""
        count = max(0, min(count, self.size - position))
        data = os.pread(self.descriptor, count, self.start + position) if count else b""
        # Network file systems and the kernel's limit of 2 GiB may give fewer bytes at a time.
        while len(data) < count:
            more = os.pread(self.descriptor, count - len(data), self.start + position + len(data))
            if not more:
                break
            data += more
        return data

    def part(self, start: int, stop: int) -> ByteRange:
        return ByteRange(self.descriptor, self.start + start, self.start + min(stop, self.size))

    def is_zero(self) -> bool:
        return not any(self.read(place, _BLOCK).strip(b"\0") for place in range(0, self.size, _BLOCK))

    def find(self, needle: bytes, position: int) -> int | None:
        """The first place of `needle` from `position` on; None where there is none."""
        while position < self.size:
            # A needle may lie across two blocks.
            place = self.read(position, _BLOCK + len(needle) - 1).find(needle)
            if place >= 0:
                return position + place
            position += _BLOCK
        return None


@dataclass(frozen=True)
class Mended:
    """Samples with another header in place of the file's own, which is wrong."""

    head: bytes
    samples: ByteRange
    surplus: int = 0
    """Bytes of samples after the end that the file's header states, if it states one."""


class Spliced(io.RawIOBase):
    """A file of `head` and then the bytes of a range, for decoders that need a file."""

    def __init__(self, head: bytes, rest: ByteRange) -> None:
        self._head, self._rest = head, rest
        self._position = 0

    @property
    def size(self) -> int:
        return len(self._head) + self._rest.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        view = memoryview(buffer).cast("B")
        data = self._head[self._position : self._position + len(view)]
        if len(data) < len(view):
            data += self._rest.read(self._position + len(data) - len(self._head), len(view) - len(data))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
