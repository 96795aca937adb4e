"""Reads the pages of an Ogg file (RFC 3533): joined recordings, the last page, the mark at the end."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from speechllm_plugin.datasets.sound.api import SoundError, later_part
from speechllm_plugin.files.byte_range import ByteRange

_CAPTURE = b"OggS"
_HEADER = 27
_BEGINS, _ENDS = 2, 4
_NO_GRANULE = -1
_CODECS = {
    b"\x01vorbis": "Vorbis", b"OpusHead": "Opus", b"\x7fFLAC": "FLAC", b"Speex   ": "Speex", b"\x80theora": "Theora"
}  # fmt: skip
_LONGEST_NAME = 8


@dataclass(frozen=True)
class OggStream:
    """One recording."""

    data: ByteRange

    codecs: tuple[str, ...]
    """Codecs of its streams, nearly always one."""

    last_page: int
    """First sample of the last page that ends one; for Vorbis, whose positions count samples from 0."""

    samples: int | None
    """All samples, where the codec is FLAC, whose positions count them."""

    has_end: bool
    """Whether the last page bears the mark that encoders set there."""


def read_streams(data: ByteRange) -> list[OggStream]:
    """
    :raises SoundError: the first page does not begin a stream, the last one is not whole, or other bytes stand between
        two pages.
    """
    begun: list[tuple[int, list[str]]] = []
    ends: list[list[int]] = []
    flags = 0
    marks: list[bool] = []
    position, in_heads = 0, False
    while position < data.size:
        head = data.read(position, _HEADER + 255 + _LONGEST_NAME)
        if not head.startswith(_CAPTURE):
            # A tag or padding may follow, but no page.
            if (again := data.find(_CAPTURE, position)) is None:
                break
            raise SoundError(f"found bytes that are no Ogg page at byte {position} (to {again}), expected a whole file")
        segments = head[_HEADER : _HEADER + head[26]] if len(head) > 26 else b""
        size = _HEADER + len(segments) + sum(segments)
        if len(head) < _HEADER or len(segments) < head[26] or position + size > data.size:
            raise SoundError("found an incomplete page at the end of the Ogg stream, expected a whole file")
        flags, granule = head[5], struct.unpack_from("<q", head, 6)[0]
        if not begun and not flags & _BEGINS:
            raise SoundError(later_part("an Ogg stream", "ogg"))
        if flags & _BEGINS:
            if not in_heads:
                begun.append((position, []))
                ends.append([])
                marks.append(False)
            body = head[_HEADER + len(segments) :]
            begun[-1][1].append(next((name for start, name in _CODECS.items() if body.startswith(start)), "unknown"))
        in_heads = bool(flags & _BEGINS)
        marks[-1] = bool(flags & _ENDS)
        if granule != _NO_GRANULE:
            ends[-1].append(granule)
        position += size
    stops = [start for start, _ in begun[1:]] + [position]
    return [
        OggStream(
            data.part(start, stop),
            tuple(codecs),
            last_page=max(0, granules[-2]) if len(granules) > 1 else 0,
            samples=granules[-1] if codecs == ["FLAC"] and granules and granules[-1] > 0 else None,
            has_end=mark,
        )
        for (start, codecs), stop, granules, mark in zip(begun, stops, ends, marks, strict=True)
    ]
