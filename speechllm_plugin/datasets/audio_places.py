"""Where the sound of many rows is, without an object for each row, and which of the files exist."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechllm_plugin.datasets.audio import AudioError, AudioSource
from speechllm_plugin.files.columns.fields import Bytes, Hashes, Places, hashes, is_among, joined, numbers
from speechllm_plugin.files.remote import Location, RemoteFile, under

_LISTED = 16
"""A folder with this many rows or more is listed: a system call for each row would cost more."""
_NAMES = 10_000
"""Names of a folder that are looked at together."""
_ANY = 1 << 62


@dataclass(frozen=True)
class AudioPlaces:
    folders: list[str]
    """Folders as the rows name them, up to and with the last slash; empty for a name alone."""
    folder: npt.NDArray[np.int32]
    """The folder of each row, as an index into `folders`."""
    name: Hashes
    """The name of each row's file in its folder, hashed."""
    stop: Places
    """Where each row's range of its file ends, in bytes or samples; 0 = no range, -1 = an empty range."""

    def take(self, rows: Places) -> AudioPlaces:
        return AudioPlaces(self.folders, self.folder[rows], self.name[rows], self.stop[rows])


class PlaceCollector:
    """Collects the places block by block."""

    def __init__(self) -> None:
        self._folders: dict[str, int] = {}
        self._parts: list[tuple[np.ndarray, Hashes, Places]] = []

    def look(self, data: Bytes, begins: Places, ends: Places) -> None:
        """:param begins: where the fields of the column `audio` begin."""
        stops, ends = _ranges(data, begins, ends)
        slashes = np.concatenate([[-1], np.flatnonzero(data == ord("/"))])
        # The name begins after the last slash before the field's end, if that slash is the field's own.
        names = np.maximum(begins, slashes[np.searchsorted(slashes, ends) - 1] + 1)
        _, firsts, inverse = np.unique(hashes(data, begins, names), return_index=True, return_inverse=True)
        codes = [self._code(data[begins[row] : names[row]].tobytes().decode()) for row in firsts]
        self._parts.append((np.array(codes, dtype=np.int32)[inverse], hashes(data, names, ends), stops))

    def places(self) -> AudioPlaces:
        folder, name, stop = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        return AudioPlaces(list(self._folders), folder, name, stop)

    def _code(self, folder: str) -> int:
        return self._folders.setdefault(folder, len(self._folders))


def _ranges(data: Bytes, begins: Places, ends: Places) -> tuple[Places, Places]:
    """
    :returns: the `stop` of each row, and where its file's path ends: the form `path:start:length`.
    """
    colons = np.concatenate([[-1, -1], np.flatnonzero(data == ord(":"))])
    last = np.searchsorted(colons, ends) - 1
    second, first = colons[last], colons[np.maximum(last - 1, 0)]
    has_two = first > begins
    # An empty field is no number.
    first, second = np.where(has_two, first, ends), np.where(has_two, second, ends)
    start, is_start = numbers(data, np.minimum(first + 1, second), second)
    length, is_length = numbers(data, np.minimum(second + 1, ends), ends)
    is_range = is_start & is_length
    stop = np.where(is_range, np.where(length == 0, -1, start + length), 0)
    return stop, np.where(is_range, first, ends)


def unseen(places: AudioPlaces, root: Location, source_of: Callable[[int], AudioSource]) -> Places:
    """
    :param source_of: finds the file of one row.
    :returns: the rows to look at one by one: the lists of folders do not show their file, or their range may go beyond
        the file's end.
    """
    is_open = np.ones(len(places.folder), dtype=bool)
    order = np.argsort(places.folder, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(places.folder[order])) + 1):
        if len(rows) < _LISTED:
            continue
        whole, parts = rows[places.stop[rows] == 0], rows[places.stop[rows] > 0]
        folder = under(root, places.folders[places.folder[rows[0]]])
        if isinstance(folder, RemoteFile):
            # Files at URLs are looked for when they are read, since each look is a request.
            is_open[rows] = places.stop[rows] < 0
            continue
        if len(whole):
            is_open[whole] = ~is_among(places.name[whole], _files_in(folder, most=8 * len(whole) + 64))
        for file_rows in _by_file(places, parts):
            is_open[file_rows] = places.stop[file_rows] > _length(source_of, int(file_rows[0]))
    return np.flatnonzero(is_open)


def _files_in(folder: Path, *, most: int) -> Hashes:
    """Hashes of the names of a folder's files; empty where it has more than `most` entries or cannot be read."""
    found = [np.empty(0, dtype=np.uint64)]
    try:
        with os.scandir(os.fsencode(folder)) as entries:
            while block := list(islice(entries, _NAMES)):
                found.append(hashes(*joined([entry.name for entry in block if entry.is_file()])))
                most -= len(block)
                if most < 0:
                    return found[0]
    except OSError:
        return found[0]
    return np.concatenate(found)


def _by_file(places: AudioPlaces, rows: Places) -> list[Places]:
    """The rows of each file; empty where most files have few rows, so that grouping saves nothing."""
    order = rows[np.argsort(places.name[rows], kind="stable")]
    borders = np.flatnonzero(np.diff(places.name[order])) + 1
    return np.split(order, borders) if 4 * (len(borders) + 1) <= len(rows) else []


def _length(source_of: Callable[[int], AudioSource], row: int) -> int:
    """Where ranges of a row's file must end, as far as it is known without opening the file; 0 = unknown."""
    try:
        source = source_of(row)
        if source.kind == "segment":
            return _ANY
        return source.path.stat().st_size if source.kind == "zip" and isinstance(source.path, Path) else 0
    except (AudioError, OSError):
        return 0
