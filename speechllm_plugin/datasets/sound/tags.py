"""Tags that may stand before and after sound of any kind, and between joined recordings."""

from __future__ import annotations

from speechllm_plugin.files.byte_range import ByteRange

_ID3_2, _ID3_1, _APE = b"ID3", b"TAG", b"APETAGEX"
_ID3_1_SIZE, _APE_HEADER = 128, 32


def end_of_tag(data: ByteRange, position: int) -> int | None:
    """Where the tag that begins at `position` ends; `None` where none does."""
    head = data.read(position, _APE_HEADER)
    if head.startswith(_ID3_2) and len(head) >= 10:
        # The size has seven bits in each byte; a flag says that a footer of ten bytes repeats the header.
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return position + 10 + size + (10 if head[5] & 0x10 else 0)
    if head.startswith(_APE) and len(head) == _APE_HEADER:
        return position + _APE_HEADER + int.from_bytes(head[12:16], "little")
    return position + _ID3_1_SIZE if head.startswith(_ID3_1) else None
