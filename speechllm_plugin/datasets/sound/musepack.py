"""Musepack, version 8: the length that a file states. FFmpeg tells it in packets, which hold up to 64 frames."""

from __future__ import annotations

from speechllm_plugin.files.byte_range import ByteRange

DECODER_DELAY = 481
"""Samples that the filters of a decoder put in front."""
_HEADER, _CHECKSUM_AND_VERSION = b"SH", 5
_LOOKED_AT = 64


def stated_length(data: ByteRange) -> int | None:
    """Samples of each channel; `None` of version 7, whose packets hold a frame each."""
    head = data.read(0, _LOOKED_AT)
    if not head.startswith(b"MPCK" + _HEADER):
        return None
    _, place = _number(head, 6)
    samples, place = _number(head, place + _CHECKSUM_AND_VERSION)
    silence, _ = _number(head, place)
    return samples - silence or None


def _number(data: bytes, place: int) -> tuple[int, int]:
    """Seven bits a byte, of which all but the last have the eighth set; and the byte behind it."""
    number = 0
    for at in range(place, len(data)):
        number = number << 7 | data[at] & 0x7F
        if not data[at] & 0x80:
            return number, at + 1
    return 0, len(data)
