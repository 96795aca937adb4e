"""WebM and Matroska (RFC 9559): joined recordings, parts without a header, the length that a header states.

A browser's recorder writes a recording in parts, of which only the first has the header. Joined in their order, the
parts are one file. A part ends when its time is up, even in the middle of an element.
"""

from __future__ import annotations

import re
import struct

from speechllm_plugin.files.byte_range import ByteRange

HEADER = b"\x1a\x45\xdf\xa3"
_DOCUMENTS = (b"webm", b"matroska")
_LONGEST_HEADER = 64
_CLUSTER, _BLOCK = b"\x1f\x43\xb6\x75", b"\xa3"
_LOOKED_AT = 1 << 16
# A size of one to three bytes, whose highest set bit tells how many; the number of a track; a time; flags.
_BLOCK_HEAD = re.compile(rb"(?:[\x81-\xfe]|[\x40-\x7f].|[\x20-\x3f]..)(?=[\x81-\x8f]..[\x00\x80])", re.DOTALL)
_DURATION = re.compile(rb"\x44\x89(?:\x84(.{4})|\x88(.{8}))", re.DOTALL)


def is_header(data: ByteRange, place: int) -> bool:
    """Whether the bytes of `HEADER` at `place` are a header, and no chance."""
    return any(name in data.read(place, _LONGEST_HEADER) for name in _DOCUMENTS)


def is_later_part(data: ByteRange) -> bool:
    """Whether this is a later part of a recording: a cluster, or two blocks in a row, begin within its first bytes."""
    head = data.read(0, _LOOKED_AT)
    if head.startswith(_CLUSTER) or _CLUSTER in head:
        return True
    place = head.find(_BLOCK)
    while place >= 0:
        behind = _behind_block(head, place)
        if behind is not None and _behind_block(head, behind) is not None:
            return True
        place = head.find(_BLOCK, place + 1)
    return False


def states_length(data: ByteRange) -> bool:
    """Whether the header states a length. Without one, FFmpeg's length is a guess from bit rates."""
    # The element with the length stands before the first cluster.
    head = data.read(0, _LOOKED_AT)
    match = _DURATION.search(head[: head.find(_CLUSTER)] if _CLUSTER in head else head)
    if match is None:
        return False
    return bool((struct.unpack(">f", match[1]) if match[1] else struct.unpack(">d", match[2]))[0] > 0)


def _behind_block(head: bytes, place: int) -> int | None:
    """Where the block that begins at `place` ends; `None` where none begins there."""
    match = _BLOCK_HEAD.match(head, place + 1) if head[place : place + 1] == _BLOCK else None
    if match is None:
        return None
    length = len(match[0])
    return match.end() + (int.from_bytes(match[0], "big") & ((1 << 7 * length) - 1))
