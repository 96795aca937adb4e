"""Checks byte ranges of zip archives against the archives' own entries."""

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
# fairseq's writer counts each character of a name as one byte, and ignores extra fields. Its ranges begin too early by
# the difference, which is less than the longest name.
_FURTHEST = 1024


@dataclass(frozen=True)
class _Entry:
    name: str
    start: int
    length: int
    stored: bool


def checked(audio: str) -> tuple[str, bool]:
    """The place of a clip with the true range of its archive's entry, and whether the range was another one. A place
    that is no range of a readable archive stays as it is, and its error is reported when it is opened.

    :raises Unusable: the range is not that of a stored entry.
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
    """The entries of an archive in the order of their places; ``None`` for a file that is no archive."""
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
