"""Finds where each file begins in several whole files one after the other, as `cat` joins them."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial

from speechllm_plugin.datasets.sound import asf, mp4, webm
from speechllm_plugin.datasets.sound.remembered import Remembered
from speechllm_plugin.files.byte_range import ByteRange

_HEADER = 28
_MOST_SEARCHED = 1 << 30
"""Bytes. In larger files, the header of a recording after one of unknown size is decoded as a click of 3 ms."""
_WAV = (b"RIFF", b"RF64", b"BW64")
_CAF = b"caff\x00\x01\x00\x00desc"
_W64 = b"riff\x2e\x91\xcf\x11"
_AMR = (b"#!AMR\n", b"#!AMR-WB\n")
_SPHERE_HEADER = 1024
_SPHERE_SIZE = re.compile(rb"NIST_1A\n *(\d+)\n")
_SPHERE_FIELD = re.compile(rb"^(sample_count|sample_n_bytes|channel_count) -i (\d+)", re.MULTILINE)

_found: Remembered[list[int]] = Remembered()


def recordings(data: ByteRange, kind: str, key: str) -> list[ByteRange]:
    """The files in a file, nearly always one. Kinds whose own reader finds further recordings (flac, Ogg, mp3) give
    one.

    :param kind: as `kinds.kind_of` calls it.
    :param key: a key that changes with the file, which is searched once for each key.
    """
    find = _STARTS.get(kind)
    starts = _found.get((key, data.start, data.stop), partial(find, data)) if find else []
    if len(starts) < 2:
        return [data]
    return [data.part(start, stop) for start, stop in zip(starts, [*starts[1:], data.size], strict=True)]


def _follow(
    data: ByteRange,
    size_of: Callable[[bytes], int],
    is_start: Callable[[bytes], bool],
    magic: bytes,
    *,
    magic_at: int = 0,
    unit: int = 2,
) -> list[int]:
    """Follows the sizes that the headers state. Where a size is wrong, as programs that write to a pipe leave it, the
    next header is searched for.

    :param magic: bytes in each header, at `magic_at`.
    :param unit: most writers fill sizes up to a multiple of this many bytes.
    """

    def begins(place: int) -> bool:
        return is_start(data.read(place, _HEADER))

    starts: list[int] = []
    position: int | None = 0
    while position is not None and begins(position):
        starts.append(position)
        size = max(_HEADER, size_of(data.read(position, _HEADER)))
        ends = (position + size, position - (-size // unit) * unit)
        following = next(filter(begins, ends), None)
        if following is None and data.size not in ends and data.size <= _MOST_SEARCHED:
            # The search begins after the stated size, or after the header where the size is too large.
            behind = ends[0] if ends[0] < data.size else position + _HEADER
            following = next(_search(data, magic, begins, behind, magic_at), None)
        position = following
    return starts


def _is_wav(head: bytes) -> bool:
    return head[:4] in _WAV and head[8:12] == b"WAVE"


def _wav_size(head: bytes) -> int:
    if head[:4] != b"RIFF" and head[12:16] == b"ds64":
        return 8 + int(struct.unpack_from("<Q", head, 20)[0])
    return 8 + int(struct.unpack_from("<I", head, 4)[0])


def _is_aiff(head: bytes) -> bool:
    return head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")


def _aiff_size(head: bytes) -> int:
    return 8 + int(struct.unpack_from(">I", head, 4)[0])


def _is_au(head: bytes) -> bool:
    # Fields: place of the samples, their size, their coding, rate and channels.
    return head.startswith(b".snd") and len(head) == _HEADER and head[4:6] == b"\0\0" and head[12:15] == b"\0\0\0"


def _au_size(head: bytes) -> int:
    # Fields: place of the samples, and their size.
    return sum(struct.unpack_from(">II", head, 4))


def _is_w64(head: bytes) -> bool:
    return head.startswith(_W64)


def _w64_size(head: bytes) -> int:
    return int(struct.unpack_from("<Q", head, 16)[0])


def _caf_starts(data: ByteRange) -> list[int]:
    starts, position = [0], 8
    while len(head := data.read(position, 12)) == 12:
        if head.startswith(_CAF[:6]):
            starts.append(position)
            position += 8
            continue
        size = struct.unpack_from(">q", head, 4)[0]
        if size < 0:
            # The file goes on to the end, unless another one follows.
            place = data.find(_CAF, position) if data.size <= _MOST_SEARCHED else None
            if place is None:
                break
            position = place
        else:
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
    return list(_search(data, magic)) if magic else []


def _search(
    data: ByteRange,
    magic: bytes,
    is_start: Callable[[int], bool] = lambda place: True,
    begin: int = 0,
    magic_at: int = 0,
) -> Iterator[int]:
    """Searches all bytes from `begin` on, for containers that state no size."""
    place: int | None = begin + magic_at
    while place is not None and (place := data.find(magic, place)) is not None:
        if is_start(place - magic_at):
            yield place - magic_at
        place += len(magic)


def _tta_starts(data: ByteRange) -> list[int]:
    def has_checksum(place: int) -> bool:
        head = data.read(place, 22)
        return len(head) == 22 and zlib.crc32(head[:18]) == int.from_bytes(head[18:], "little")

    return list(_search(data, b"TTA1", has_checksum))


_STARTS: dict[str, Callable[[ByteRange], list[int]]] = {
    "wav": lambda data: _follow(data, _wav_size, _is_wav, b"WAVE", magic_at=8),
    "aiff": lambda data: _follow(data, _aiff_size, _is_aiff, b"FORM"),
    "au": lambda data: _follow(data, _au_size, _is_au, b".snd"),
    "w64": lambda data: _follow(data, _w64_size, _is_w64, _W64, unit=8),
    "caf": _caf_starts,
    "sphere": _sphere_starts,
    "amr": _amr_starts,
    # After the flags comes the size of the header.
    "flv": lambda data: list(_search(data, b"FLV\x01", lambda place: data.read(place + 5, 4) == b"\0\0\0\x09")),
    "tta": _tta_starts,
    "nut": lambda data: list(_search(data, b"nut/multimedia container\0")),
    "voc": lambda data: list(_search(data, b"Creative Voice File\x1a")),
    "wma": lambda data: list(_search(data, asf.HEADER)),
    "webm": lambda data: list(_search(data, webm.HEADER, lambda place: webm.is_header(data, place))),
    "mp4": mp4.starts,
}
