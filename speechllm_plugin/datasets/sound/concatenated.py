"""Whole files one behind the other, as `cat` puts them: where each begins."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator

from speechllm_plugin.datasets.sound import asf, mp4, webm
from speechllm_plugin.datasets.sound.bytes import ByteRange

_HEADER = 28
_AMR = (b"#!AMR\n", b"#!AMR-WB\n")
_SPHERE_HEADER = 1024
_SPHERE_SIZE = re.compile(rb"NIST_1A\n *(\d+)\n")
_SPHERE_FIELD = re.compile(rb"^(sample_count|sample_n_bytes|channel_count) -i (\d+)", re.MULTILINE)


def recordings(data: ByteRange, kind: str) -> list[ByteRange]:
    """The files in a file; nearly always it is one. Of kinds whose own reader knows (flac, Ogg, mp3), always one.

    :param kind: as `kinds.kind_of` calls it.
    """
    find = _STARTS.get(kind)
    starts = find(data) if find else []
    if len(starts) < 2:
        return [data]
    return [data.part(start, stop) for start, stop in zip(starts, [*starts[1:], data.size], strict=True)]


def _follow(
    data: ByteRange, size_of: Callable[[bytes], int], is_start: Callable[[bytes], bool], unit: int = 2
) -> Iterator[int]:
    """By the sizes that the headers state, as long as another header stands there.

    :param unit: sizes are filled up to a multiple of it in bytes, but not by every writer.
    """
    position = 0
    while len(head := data.read(position, _HEADER)) == _HEADER and is_start(head):
        yield position
        size = max(_HEADER, size_of(head))
        position += size if is_start(data.read(position + size, _HEADER)) else -(-size // unit) * unit


def _is_wav(head: bytes) -> bool:
    return head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE"


def _wav_size(head: bytes) -> int:
    if head[:4] != b"RIFF" and head[12:16] == b"ds64":
        return 8 + int(struct.unpack_from("<Q", head, 20)[0])
    return 8 + int(struct.unpack_from("<I", head, 4)[0])


def _is_aiff(head: bytes) -> bool:
    return head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")


def _aiff_size(head: bytes) -> int:
    return 8 + int(struct.unpack_from(">I", head, 4)[0])


def _is_au(head: bytes) -> bool:
    return head.startswith(b".snd")


def _au_size(head: bytes) -> int:
    # The place of the samples, and their size.
    return sum(struct.unpack_from(">II", head, 4))


def _is_w64(head: bytes) -> bool:
    return head.startswith(b"riff\x2e\x91\xcf\x11")


def _w64_size(head: bytes) -> int:
    return int(struct.unpack_from("<Q", head, 16)[0])


def _caf_starts(data: ByteRange) -> list[int]:
    starts, position = [0], 8
    while len(head := data.read(position, 12)) == 12:
        if head.startswith(b"caff\x00\x01"):
            starts.append(position)
            position += 8
            continue
        size = struct.unpack_from(">q", head, 4)[0]
        if size < 0:
            break
        position += 12 + size
    return starts


def _sphere_starts(data: ByteRange) -> list[int]:
    starts, position = [], 0
    while (head := data.read(position, _SPHERE_HEADER)).startswith(b"NIST_1A"):
        starts.append(position)
        size = _SPHERE_SIZE.match(head)
        fields = {name: int(value) for name, value in _SPHERE_FIELD.findall(head)}
        if size is None or len(fields) < 3:
            break
        position += int(size[1]) + fields[b"sample_count"] * fields[b"sample_n_bytes"] * fields[b"channel_count"]
    return starts


def _amr_starts(data: ByteRange) -> list[int]:
    magic = next((magic for magic in _AMR if data.read(0, len(magic)) == magic), None)
    return _search(data, magic, lambda place: True) if magic else []


def _search(data: ByteRange, magic: bytes, is_start: Callable[[int], bool]) -> list[int]:
    """Of containers that state no size: all bytes are searched."""
    starts: list[int] = []
    place: int | None = 0
    while place is not None and (place := data.find(magic, place)) is not None:
        if is_start(place):
            starts.append(place)
        place += len(magic)
    return starts


def _tta_starts(data: ByteRange) -> list[int]:
    def has_checksum(place: int) -> bool:
        head = data.read(place, 22)
        return len(head) == 22 and zlib.crc32(head[:18]) == int.from_bytes(head[18:], "little")

    return _search(data, b"TTA1", has_checksum)


_STARTS: dict[str, Callable[[ByteRange], list[int]]] = {
    "wav": lambda data: list(_follow(data, _wav_size, _is_wav)),
    "aiff": lambda data: list(_follow(data, _aiff_size, _is_aiff)),
    "au": lambda data: list(_follow(data, _au_size, _is_au)),
    "w64": lambda data: list(_follow(data, _w64_size, _is_w64, unit=8)),
    "caf": _caf_starts,
    "sphere": _sphere_starts,
    "amr": _amr_starts,
    # Behind the flags the size of the header.
    "flv": lambda data: _search(data, b"FLV\x01", lambda place: data.read(place + 5, 4) == b"\0\0\0\x09"),
    "tta": _tta_starts,
    "voc": lambda data: _search(data, b"Creative Voice File\x1a", lambda place: True),
    "wma": lambda data: _search(data, asf.HEADER, lambda place: True),
    "webm": lambda data: _search(data, webm.HEADER, lambda place: webm.is_header(data, place)),
    "mp4": mp4.starts,
}
