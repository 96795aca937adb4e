"""Files at URLs, read by fsspec: `s3://bucket/x.wav`, `gs://`, `hf://`, `https://` and others that it knows."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from typing_extensions import override

from speechllm_plugin.files.byte_range import ByteRange
from speechllm_plugin.files.requests import RemoteError, answer_of, ask, told

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.")
_STAMPS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created")
"""Keys under which file systems give a value that changes with the file."""
_BLOCK = 1 << 18
"""Least bytes of a request: 256 KiB."""
_MOST_BLOCKS = 32
"""Most blocks of a request, where a file is read from end to end; also the number of blocks that are kept."""
_MOST = _MOST_BLOCKS * _BLOCK
"""Most bytes of a request: 8 MiB."""

# A forked process that collected its parent's file systems would take the parent's connections out of the event queue
# that both share: the parent would wait in vain for what it asks for next.
_used: dict[int, Any] = {}
"""File systems, which live as long as the process, as they do in fsspec's cache where no fork empties it."""


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL, which is assumed not to change while the process runs."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def parent(self) -> RemoteFile:
        return RemoteFile(self.url.rpartition("/")[0])

    @property
    def suffix(self) -> str:
        return Path(self.url.partition("?")[0]).suffix  # a signed URL has a query

    def __truediv__(self, name: str) -> RemoteFile:
        return RemoteFile(f"{self.url.rstrip('/')}/{name}")

    def status(self) -> RemoteStatus | None:
        """None where there is no such file.

        :raises RemoteError: the server does not tell.
        """
        return _status(self.url)

    def read(self, start: int, stop: int) -> bytes:
        """:raises RemoteError: the bytes cannot be read."""
        pieces = [(begin, min(begin + _MOST, stop)) for begin in range(start, stop, _MOST)]
        return b"".join(self._read(*piece) for piece in pieces)

    def _read(self, start: int, stop: int) -> bytes:
        system, path = _system(self.url)

        def request() -> bytes:
            data = bytes(answer_of(system, "cat_file", path, start=start, end=stop))
            if len(data) < stop - start:
                raise ConnectionError(f"{len(data)} bytes came where {stop - start} were asked for")
            return data

        try:
            data = ask(self.url, request)
        except FileNotFoundError:
            raise RemoteError("no such file") from None
        if len(data) > stop - start:
            raise RemoteError(f"{len(data)} bytes came where {stop - start} were asked for: the server has no ranges")
        return data


@dataclass(frozen=True)
class RemoteStatus:
    size: int
    stamp: str
    """A value that changes with the file, as far as the server tells one."""
    is_file: bool


Location = Path | RemoteFile


def location(text: str) -> Location:
    return RemoteFile(text) if is_remote(text) else Path(text)


def is_remote(text: str) -> bool:
    return _URL.match(text) is not None


def under(root: Location, name: str) -> Location:
    """:param name: a URL, an absolute path, or a path relative to `root`."""
    if is_remote(name):
        return RemoteFile(name)
    return Path(name) if name.startswith("/") else root / name


class RemoteBytes(ByteRange):
    """Bytes of a remote file, fetched in blocks when they are asked for, and only within the first range."""

    def __init__(self, blocks: _Blocks, start: int, stop: int) -> None:
        super().__init__(-1, start, stop)
        self._blocks = blocks

    @classmethod
    def of(cls, file: RemoteFile, start: int, stop: int) -> RemoteBytes:
        """Opens a range; a small one is fetched whole at once.

        :raises RemoteError: it cannot be fetched.
        """
        blocks = _Blocks(file, start, stop)
        if 0 < stop - start <= _MOST:
            blocks.read(start, stop - start)
        return cls(blocks, start, stop)

    @property
    def failure(self) -> RemoteError | None:
        """The error of the last request; None where it succeeded."""
        return self._blocks.failure

    @property
    @override
    def is_whole_file(self) -> bool:
        """False: there is no file descriptor."""
        return False

    @override
    def read(self, position: int, count: int) -> bytes:
        count = max(0, min(count, self.size - position))
        return self._blocks.read(self.start + position, count) if count else b""

    @override
    def part(self, start: int, stop: int) -> RemoteBytes:
        return RemoteBytes(self._blocks, self.start + start, self.start + min(stop, self.size))


class _Blocks:
    """Blocks of a range of a file; the most recently read ones are kept."""

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
        # A read that begins where the last request ended is likely to go on: each such request asks for twice as much.
        self._ahead = min(2 * self._ahead, _MOST_BLOCKS) if number == self._next else 1
        self._next = number + max(self._ahead, min(last + 1 - number, _MOST_BLOCKS))
        start, stop = (self._start + block * _BLOCK for block in (number, self._next))
        try:
            data = self._file.read(start, min(stop, self._stop))
        except RemoteError as error:
            self.failure = error
            raise
        self.failure = None
        for offset in range(0, len(data), _BLOCK):
            self._kept[number + offset // _BLOCK] = data[offset : offset + _BLOCK]
        while len(self._kept) > 2 * _MOST_BLOCKS:
            self._kept.popitem(last=False)


@lru_cache(maxsize=1 << 16)
def _status(url: str) -> RemoteStatus | None:
    system, path = _system(url)
    try:
        found = ask(url, lambda: answer_of(system, "info", path))
    except FileNotFoundError:
        return None
    if found.get("size") is None and found.get("type") == "file":
        raise RemoteError("its length is not told")
    stamp = " ".join(str(found[key]) for key in _STAMPS if key in found)
    return RemoteStatus(int(found.get("size") or 0), stamp, found.get("type") == "file")


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    :raises RemoteError: fsspec has no such file system.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise RemoteError("needs fsspec: pip install 'speechllm-plugin[remote]'") from None
    system, path = told(url_to_fs, url)
    _used[id(system)] = system
    return system, path
