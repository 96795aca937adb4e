"""The length that a Musepack file of version 8 states. FFmpeg only tells packets, which hold up to 64 frames."""

from __future__ import annotations

from speechllm_plugin.files.byte_range import ByteRange

DECODER_DELAY = 481
"""Samples that the filters of a decoder put before the sound."""
_HEADER, _CHECKSUM_AND_VERSION = b"SH", 5
_LOOKED_AT = 64


def stated_length(data: ByteRange) -> int | None:
    """Samples of each channel; `None` for version 7, whose packets hold one frame each."""
    head = data.read(0, _LOOKED_AT)
    if not head.startswith(b"MPCK" + _HEADER):
        return None
    _, place = _number(head, 6)
    samples, place = _number(head, place + _CHECKSUM_AND_VERSION)
    silence, _ = _number(head, place)
    return samples - silence or None


def _number(data: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits in each byte, and the place after it; all its bytes but the last have the eighth bit
    set."""
    number = 0
    for at in range(place, len(data)):
        number = number << 7 | data[at] & 0x7F
        if not data[at] & 0x80:
            return number, at + 1
    return 0, len(data)
