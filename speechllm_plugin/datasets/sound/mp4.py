"""The boxes of MPEG-4 and QuickTime files (ISO 14496-12): recordings put together, and files without an index."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from speechllm_plugin.datasets.sound.api import later_part
from speechllm_plugin.files.byte_range import ByteRange

_MOST_BOXES = 1 << 20


def boxes(data: ByteRange) -> Iterator[tuple[bytes, int]]:
    """Names of the outermost boxes, and where they begin; ends where a box reaches beyond the file."""
    position = 0
    for _ in range(_MOST_BOXES):
        head = data.read(position, 16)
        if len(head) < 8:
            return
        size, name = struct.unpack_from(">I4s", head)
        yield name, position
        if size == 1 and len(head) == 16:
            size = struct.unpack_from(">Q", head, 8)[0]
        # A size of 0 means to the end of the file.
        if size < 8:
            return
        position += size


def starts(data: ByteRange) -> list[int]:
    """Where files begin: one place, unless whole files were joined."""
    return [0, *(place for name, place in boxes(data) if name == b"ftyp" and place > 0)]


def lack(data: ByteRange) -> str | None:
    """The message for a file that cannot be decoded because its index (`moov`) is missing; `None` where it is there."""
    names = {name for name, _ in boxes(data)}
    if b"moov" in names:
        return None
    if names & {b"moof", b"styp", b"sidx"} and b"ftyp" not in names:
        return later_part("an MPEG-4 stream", "mp4")
    return (
        "found MPEG-4 (m4a, mp4, 3gp, mov) without its index (box `moov`), which recorders write last: cut short or "
        "never finished, expected a whole file"
    )
