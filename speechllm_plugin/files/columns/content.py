"""The bytes of a table: in memory if they are few, otherwise read from the file when a row is asked for."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Protocol

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.remote import Location, RemoteError, RemoteFile

IN_MEMORY = 1 << 26
"""Bytes of the largest table that is kept in memory: 64 MiB."""


class Content(Protocol):
    size: int

    def read(self, start: int, stop: int) -> bytes: ...


class InMemory:
    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def read(self, start: int, stop: int) -> bytes:
        return self._data[start:stop]


class OnDisk:
    """A file that is kept open, so that another file under its name changes nothing."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, descriptor)
        self._path, self._descriptor, self._status = path, descriptor, os.fstat(descriptor)
        self.size = self._status.st_size

    def read(self, start: int, stop: int) -> bytes:
        """:raises UserError: the file has changed, so that the places of its rows are no longer known."""
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self.size, self._status.st_mtime_ns):
            raise UserError(f"{self._path}: found it changed since its rows were checked, expected it to stay as it is")
        data = os.pread(self._descriptor, stop - start, start)
        # Network file systems and the kernel's limit of 2 GiB may give fewer bytes at a time.
        while len(data) < stop - start:
            more = os.pread(self._descriptor, stop - start - len(data), start + len(data))
            if not more:
                break
            data += more
        return data


def open_content(path: Location) -> Content:
    """:raises UserError: the file is missing or cannot be read."""
    if isinstance(path, RemoteFile):
        return InMemory(read_content(path))
    try:
        return OnDisk(path) if path.stat().st_size > IN_MEMORY else InMemory(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: found no such file, expected a TSV file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), expected a readable TSV file") from None


def read_content(file: RemoteFile) -> bytes:
    """:raises UserError: as `open_content`."""
    try:
        if (status := file.status()) is None:
            raise UserError(f"{file}: found no such file, expected a TSV file")
        return file.read(0, status.size)
    except RemoteError as error:
        raise UserError(f"{file}: cannot be read ({error}), expected a readable TSV file") from None
