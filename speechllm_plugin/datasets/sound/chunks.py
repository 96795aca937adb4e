"""aiff and caf files whose header was written before the size of the samples was known."""

from __future__ import annotations

import struct

from speechllm_plugin.datasets.sound.bytes import ByteRange

_LONGEST_HEAD = 1 << 20
_BYTES_OF_OFFSETS, _BYTES_OF_EDITS = 8, 4

SNDFILE_CODECS = frozenset({b"lpcm", b"ulaw", b"alaw", b"alac"})
"""Of a caf file: what libsndfile decodes."""


def mended_aiff(data: ByteRange) -> tuple[bytes, int] | None:
    """The header that the file should have, and how many bytes it replaces; `None` where the file's own will do.

    libsndfile itself reads on where a size is 0, or larger than the file. A recorder that was killed left the size of
    no samples.
    """
    position, count_at, frame_bytes = 12, None, 0
    while position < _LONGEST_HEAD:
        head = data.read(position, 8)
        if len(head) < 8:
            return None
        name, size = struct.unpack(">4sI", head)
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
    if size != _BYTES_OF_OFFSETS or present <= size or count_at is None or frame_bytes == 0:
        return None
    mended = bytearray(data.read(0, start))
    struct.pack_into(">I", mended, 4, start - 8 + present)
    struct.pack_into(">I", mended, count_at, (present - _BYTES_OF_OFFSETS) // frame_bytes)
    struct.pack_into(">I", mended, start - 4, present)
    return bytes(mended), start


def codec_of_caf(data: ByteRange) -> bytes:
    # The chunk `desc` comes first and begins with the rate.
    return data.read(28, 4)


def mended_caf(data: ByteRange) -> tuple[bytes, int] | None:
    """As :func:`mended_aiff`; the format allows a size of -1 for samples that go on to the end."""
    position = 8
    while position < _LONGEST_HEAD:
        head = data.read(position, 12)
        if len(head) < 12:
            return None
        name, size = struct.unpack(">4sq", head)
        position += 12
        if name == b"data":
            # A recorder that was killed left the size of no samples.
            if size not in (-1, 0, _BYTES_OF_EDITS) or data.size <= position + max(size, 0):
                return None
            return data.read(0, position - 8) + struct.pack(">q", data.size - position), position
        position += max(size, 0)
    return None
