"""Tells what follows the samples of a file: chunks, tags, padding, or samples that its header does not count."""

from __future__ import annotations

import struct

from speechllm_plugin.files.byte_range import ByteRange

WAV, AIFF, CAF = struct.Struct("<4sI"), struct.Struct(">4sI"), struct.Struct(">4sq")
"""Heads of chunks: a name and the size of what follows."""
_FOUR_GIB = 1 << 32
_LOOKED_AT = 1 << 20
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"3DI")
# Chunks that are none of this file: the header of another file, and more samples.
_NO_CHUNKS = (b"RIFF", b"FORM", b"caff", b"data", b"SSND")


def is_explained(data: ByteRange, position: int, chunk: struct.Struct | None) -> bool:
    """Whether the bytes after the stated end of the samples are no sound.

    :param chunk: head of the chunks that may follow; `None` for a format without chunks.
    """
    rest = data.size - position
    if rest >= _FOUR_GIB - _LOOKED_AT:
        return False
    tail = data.read(position, _LOOKED_AT)
    if tail.startswith(_TAGS) or (rest == len(tail) and not tail.strip(b"\0")):
        return True
    # An odd number of bytes is padded, but not by every writer.
    return chunk is not None and any(_are_chunks(data, position + pad, chunk) for pad in (0, 1))


def _are_chunks(data: ByteRange, position: int, chunk: struct.Struct) -> bool:
    if position >= data.size:
        return True
    if data.read(position, 8).startswith(_TAGS):
        return True
    while position < data.size:
        head = data.read(position, chunk.size)
        if not head.strip(b"\0"):
            return True
        if len(head) < chunk.size or head[:4] in _NO_CHUNKS or not all(32 <= letter < 127 for letter in head[:4]):
            return False
        size = chunk.unpack(head)[1]
        position += chunk.size + max(size, 0)
        if size < 0 or position > data.size:
            return False
        # An odd chunk is padded by one byte.
        position += 1 if size % 2 and data.read(position, 1) == b"\0" else 0
    return True
