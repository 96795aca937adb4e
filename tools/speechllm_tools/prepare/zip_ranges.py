"""Byte ranges of zip archives, checked against the archives' own entries."""

from __future__ import annotations

import bisect
import re
import zipfile
from dataclasses import dataclass
from functools import lru_cache

from speechllm_tools.prepare.measure import Unusable
from speechllm_tools.prepare.storage import data_offset

COMPRESSED = "archive entry that is compressed instead of stored"
NO_ENTRY = "byte range that is no entry of its archive"
FEATURES = "archive entry of features (.npy), not of sound"
MENDED = "byte ranges moved to where their archive's entry begins"
_RANGE = re.compile(r"(?P<path>.+\.zip):(?P<start>[0-9]+):(?P<length>[0-9]+)", re.IGNORECASE | re.DOTALL)
# fairseq's writer counts a letter of the name as one byte, and no extra field: a range begins too early by the
# difference, which is less than the longest name.
_FURTHEST = 1024


@dataclass(frozen=True)
class _Entry:
    name: str
    start: int
    length: int
    stored: bool


def checked(audio: str) -> tuple[str, bool]:
    """A manifest's name of a clip, with the range that its archive's entry really has, and whether it was another.
    What is no range of a readable archive stays as it is: it is for those who open it to say why.

    :raises Unusable: the range is no stored entry.
    """
    match = _RANGE.fullmatch(audio)
    entries = None if match is None else _entries(match["path"])
    if match is None or entries is None:
        return audio, False
    start, length = int(match["start"]), int(match["length"])
    following = bisect.bisect_left(entries, start, key=lambda entry: entry.start)
    if following < len(entries) and (entry := entries[following]).start - start < _FURTHEST:
        if not entry.stored:
            raise Unusable(COMPRESSED, f"{audio}: {entry.name}")
        if entry.length == length and entry.name.endswith(".npy"):
            raise Unusable(FEATURES, f"{audio}: {entry.name}")
        if entry.length == length:
            return f"{match['path']}:{entry.start}:{length}", entry.start != start
    raise Unusable(NO_ENTRY, f"{audio}: none of {len(entries)} entries begins there with that length")


@lru_cache(maxsize=4)
def _entries(path: str) -> list[_Entry] | None:
    """In the order of their places; ``None`` for what is no archive."""
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            entries = []
            for information in archive.infolist():
                file.seek(information.header_offset)
                start = information.header_offset + data_offset(file.read(30))
                stored = information.compress_type == zipfile.ZIP_STORED
                entries.append(_Entry(information.filename, start, information.compress_size, stored))
    except (OSError, zipfile.BadZipFile):
        return None
    return sorted(entries, key=lambda entry: entry.start)
