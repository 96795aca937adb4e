"""Blobs by key in few large files. Several processes write at once, each reads what all wrote, and any may be killed.

Each process appends to packs of its own: first the bytes to `NAME.pack`, then an entry of fixed size to `NAME.index`.
Bytes that a kill cuts off, in either file, have no whole entry: nobody reads them, and no lock is needed.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_ENTRY = np.dtype([("key", "<u8"), ("check", "<u8"), ("place", "<u8"), ("size", "<u8"), ("checksum", "<u4")])
"""`key` and `check` are the halves of the key's hash; `checksum` is the CRC-32 of the bytes."""
PACK_BYTES = 2**30
"""Size from which on a process begins another pack."""
_REFRESH = 10.0
"""Seconds between two reads of the other processes' indexes."""


class _Found(NamedTuple):
    pack: Path
    place: int
    size: int
    checksum: int


class _Table:
    """Entries of 52 bytes, sorted by key; for equal keys the newest entry is found."""

    def __init__(self) -> None:
        self._entries = np.empty(0, _ENTRY)
        self._keys = np.empty(0, np.uint64)
        """The entries' keys, contiguous: a search in a column of the entries would copy it."""
        self._numbers = np.empty(0, np.int64)
        self._packs: list[Path] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, parts: list[tuple[Path, npt.NDArray[np.void]]]) -> None:
        numbers = np.arange(len(self._packs), len(self._packs) + len(parts))
        self._packs += [pack for pack, _ in parts]
        entries = np.concatenate([self._entries, *(part for _, part in parts)])
        of = np.concatenate([self._numbers, np.repeat(numbers, [len(part) for _, part in parts])])
        order = np.argsort(entries["key"], kind="stable")
        self._entries, self._numbers = entries[order], of[order]
        self._keys = np.ascontiguousarray(self._entries["key"])

    def find(self, key: int, check: int) -> _Found | None:
        place = int(np.searchsorted(self._keys, np.uint64(key), side="right")) - 1
        while place >= 0 and self._keys[place] == key:
            entry = self._entries[place]
            if entry["check"] == check:
                pack = self._packs[self._numbers[place]]
                return _Found(pack, int(entry["place"]), int(entry["size"]), int(entry["checksum"]))
            place -= 1
        return None


class Packs:
    def __init__(self, folder: Path, kind: str) -> None:
        """
        :param kind: part of the files' names: packs of another kind are ignored.
        :raises OSError: the folder cannot be made or read.
        """
        self._folder = folder
        self._kind = kind
        self._table = _Table()
        self._own: dict[tuple[int, int], _Found] = {}
        """Entries that this process has added since it last read the indexes."""
        self._indexed: Counter[Path] = Counter()
        """Bytes of each index that are in the table."""
        self._pack: Path | None = None
        """The pack that this process appends to."""
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._look()

    def __len__(self) -> int:
        return len(self._table) + len(self._own)

    def __contains__(self, key: str) -> bool:
        """Whether the key has an entry; damage shows when it is read."""
        return self._place_of(key) is not None

    def get(self, key: str) -> bytearray | None:
        """The bytes of a key; None = there are none, or they are damaged."""
        found = self._place_of(key)
        return None if found is None else _read(found)

    def put(self, key: str, data: bytes) -> None:
        """
        :raises OSError: the disk is full; earlier entries are unharmed.
        """
        with self._lock:
            if self._pack is None:
                self._pack = self._folder / f"{uuid.uuid4().hex}.{self._kind}.pack"
            halves, pack, checksum = _hash(key), self._pack, zlib.crc32(data)
            # After a failed write the next entry goes to a new pack.
            self._pack = None
            with pack.open("ab") as file:
                place = file.tell()
                file.write(data)
            with pack.with_suffix(".index").open("ab") as file:
                file.write(np.array([(*halves, place, len(data), checksum)], _ENTRY).tobytes())
            self._own[halves] = _Found(pack, place, len(data), checksum)
            self._pack = pack if place + len(data) < PACK_BYTES else None

    def _place_of(self, key: str) -> _Found | None:
        halves = _hash(key)
        with self._lock:
            found = self._find(halves)
            if found is None and time.monotonic() - self._looked > _REFRESH:
                self._look()
                found = self._find(halves)
        return found

    def _find(self, halves: tuple[int, int]) -> _Found | None:
        return self._own.get(halves) or self._table.find(*halves)

    def _look(self) -> None:
        """Reads the entries that all processes have added."""
        self._looked = time.monotonic()
        changed: dict[Path, float] = {}
        for index in self._folder.glob(f"*.{self._kind}.index"):
            with suppress(FileNotFoundError):  # deleted meanwhile
                changed[index] = index.stat().st_mtime
        parts = []
        # The newest index comes last: its entry replaces a damaged one.
        for index in sorted(changed, key=changed.__getitem__):
            with suppress(FileNotFoundError):
                parts.append((index.with_suffix(".pack"), self._new_entries(index)))
        self._table.add([part for part in parts if len(part[1])])
        self._own.clear()

    def _new_entries(self, index: Path) -> npt.NDArray[np.void]:
        with index.open("rb") as file:
            file.seek(self._indexed[index])
            data = file.read()
        entries = np.frombuffer(data[: len(data) - len(data) % _ENTRY.itemsize], _ENTRY)
        self._indexed[index] += entries.nbytes
        return entries


def kinds_in(folder: Path) -> list[str]:
    """The kinds of packs that a folder has."""
    return sorted({index.name.split(".")[1] for index in folder.glob("*.*.index")})


def _read(found: _Found) -> bytearray | None:
    data = bytearray(found.size)
    try:
        # The pack is opened for each read: a cache of a terabyte has more packs than a process may have open.
        with found.pack.open("rb", buffering=0) as file:
            file.seek(found.place)
            whole = file.readinto(data) == found.size
    except OSError:
        return None  # deleted
    return data if whole and zlib.crc32(data) == found.checksum else None


def _hash(key: str) -> tuple[int, int]:
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
