"""Windows Media (ASF): recordings put together, and the length that a header states."""

from __future__ import annotations

import struct

from speechllm_plugin.files.byte_range import ByteRange

HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_LENGTH, _FLAGS = 64, 88
_IS_BROADCAST = 1
_LOOKED_AT = 1 << 16


def states_length(data: ByteRange) -> bool:
    """Whether the header states a length. One written to a pipe does not: FFmpeg's length is then a guess from bit
    rates."""
    head = data.read(0, _LOOKED_AT)
    place = head.find(_PROPERTIES)
    if place < 0 or len(head) < place + _FLAGS + 4:
        return False
    length = struct.unpack_from("<Q", head, place + _LENGTH)[0]
    flags = struct.unpack_from("<I", head, place + _FLAGS)[0]
    return length > 0 and not flags & _IS_BROADCAST
