"""aiff, caf and au files whose header was written before the size of the samples was known."""

from __future__ import annotations

import struct

from speechllm_plugin.datasets.sound.surplus import AIFF, CAF, is_explained
from speechllm_plugin.files.byte_range import ByteRange, Mended

_LONGEST_HEAD = 1 << 20
_BYTES_OF_OFFSETS, _BYTES_OF_EDITS = 8, 4
_AU_HEADER = 24

SNDFILE_CODECS = frozenset({b"lpcm", b"ulaw", b"alaw", b"alac"})
"""Codecs in caf files that libsndfile decodes."""


def mended_aiff(data: ByteRange) -> Mended | None:
    """The file with the header that it should have; `None` where its own header will do.

    libsndfile itself reads to the end where a size is 0, or larger than the file. A recorder that was killed leaves the
    size of no samples, or of its first ones.
    """
    position, count_at, frame_bytes = 12, None, 0
    while position < _LONGEST_HEAD:
        head = data.read(position, AIFF.size)
        if len(head) < AIFF.size:
            return None
        name, size = AIFF.unpack(head)
        if name == b"COMM" and len(common := data.read(position + 8, 8)) == 8:
            channels, _, bits = struct.unpack(">HIH", common)
            count_at, frame_bytes = position + 10, channels * ((bits + 7) // 8)
        if name == b"SSND":
            break
        position += 8 + size + size % 2
    else:
        return None
    start = position + 8
    present = data.size - start
    if size < _BYTES_OF_OFFSETS or present <= size or count_at is None or frame_bytes == 0:
        return None
    if is_explained(data, start + size, AIFF):
        return None
    mended = bytearray(data.read(0, start))
    struct.pack_into(">I", mended, 4, start - 8 + present)
    struct.pack_into(">I", mended, count_at, (present - _BYTES_OF_OFFSETS) // frame_bytes)
    struct.pack_into(">I", mended, start - 4, present)
    return Mended(bytes(mended), data.part(start, data.size), 0 if size == _BYTES_OF_OFFSETS else present - size)


def codec_of_caf(data: ByteRange) -> bytes:
    # The chunk `desc` comes first and begins with the rate.
    return data.read(28, 4)


def mended_caf(data: ByteRange) -> Mended | None:
    """As :func:`mended_aiff`; the format allows a size of -1 for samples that go on to the end."""
    position = 8
    while position < _LONGEST_HEAD:
        head = data.read(position, CAF.size)
        if len(head) < CAF.size:
            return None
        name, size = CAF.unpack(head)
        position += CAF.size
        if name == b"data":
            present = data.size - position
            if present <= max(size, 0) or (size >= 0 and is_explained(data, position + size, CAF)):
                return None
            front = data.read(0, position - 8) + struct.pack(">q", present)
            is_stated = size not in (-1, 0, _BYTES_OF_EDITS)
            return Mended(front, data.part(position, data.size), present - size if is_stated else 0)
        position += max(size, 0)
    return None


def mended_au(data: ByteRange) -> Mended | None:
    """As :func:`mended_aiff`."""
    head = data.read(0, _AU_HEADER)
    order = ">" if head.startswith(b".snd") else "<"
    if len(head) < _AU_HEADER:
        return None
    start, size = struct.unpack_from(f"{order}II", head, 4)
    present = data.size - start
    if start < _AU_HEADER or present <= size or is_explained(data, start + size, None):
        return None
    front = data.read(0, start)
    return Mended(
        front[:8] + struct.pack(f"{order}I", min(present, 0xFFFF_FFFF)) + front[12:],
        data.part(start, data.size),
        present - size if size else 0,
    )
