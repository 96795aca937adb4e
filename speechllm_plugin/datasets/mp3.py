"""Counting the frames of an MP3 file, without decoding it.

MP3 has no container: the length is what an optional tag in the first frame says, or a guess from the first frame's
bit rate. libsndfile believes either and stops there, so that a file of varying bit rate without the tag, or two files
put together, would lose its end silently. The frames themselves tell the truth (ISO 11172-3, 13818-3).
"""

from __future__ import annotations

from dataclasses import dataclass

# kbit/s by the header's four-bit index; 0 is "free format", which has no frame size, and 15 is invalid.
_BITRATES_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_BITRATES_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = (44100, 48000, 32000)
# By the two version bits: samples per frame, what the rates are divided by, the bit rates. 1 is reserved.
_VERSIONS = {3: (1152, 1, _BITRATES_1), 2: (576, 2, _BITRATES_2), 0: (576, 4, _BITRATES_2)}


@dataclass(frozen=True)
class Mp3Frames:
    """What a walk over the frame headers found."""

    samples: int
    """Samples per channel in all whole frames, the encoder's delay and padding included."""

    samples_per_frame: int

    lost_at: int | None
    """First byte between two frames that belongs to neither; ``None`` where frame follows frame."""


def count_frames(data: bytes) -> Mp3Frames | None:
    """Walk over the frames of ``data``; ``None`` where there are none of layer III with a stated bit rate."""
    position = _find(data, _after_id3(data), None)
    if position is None:
        return None
    first = _header(data, position)
    assert first is not None
    size, samples, kind = first
    # The tag frame is silence that decoders leave out. Its tag lies behind the side information, at most 36 bytes in.
    tagged = any(tag in data[position : position + min(size, 64)] for tag in (b"Xing", b"Info", b"VBRI"))

    count = -1 if tagged else 0
    lost_at = None
    while True:
        header = _header(data, position)
        if header is None or header[2] != kind:
            again = _find(data, position, kind)
            # What follows the last frame is no damage: tags and padding.
            if again is None:
                break
            lost_at = position if lost_at is None else lost_at
            position = again
            continue
        if position + header[0] > len(data):
            break
        count += 1
        position += header[0]
    return Mp3Frames(max(count, 0) * samples, samples, lost_at)


def _header(data: bytes, position: int) -> tuple[int, int, tuple[int, int]] | None:
    """Size in bytes, samples per channel, and what stays the same over a stream (version, rate)."""
    header = data[position : position + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0 or (header[1] >> 1) & 3 != 1:
        return None
    version = (header[1] >> 3) & 3
    bitrate_index, rate_index, padding = header[2] >> 4, (header[2] >> 2) & 3, (header[2] >> 1) & 1
    if version == 1 or bitrate_index in (0, 15) or rate_index == 3:
        return None
    samples, divisor, bitrates = _VERSIONS[version]
    rate = _RATES[rate_index] // divisor
    return samples // 8 * bitrates[bitrate_index] * 1000 // rate + padding, samples, (version, rate)


def _find(data: bytes, position: int, kind: tuple[int, int] | None) -> int | None:
    """The next frame from ``position`` on. Two headers in a row, because one alone is often chance."""
    while (position := data.find(b"\xff", position)) >= 0:
        header = _header(data, position)
        if header is not None and kind in (None, header[2]):
            follower = _header(data, position + header[0])
            if follower is not None and follower[2] == header[2]:
                return position
        position += 1
    return None


def _after_id3(data: bytes) -> int:
    if not data.startswith(b"ID3") or len(data) < 10:
        return 0
    # Seven bits a byte; a flag says that a footer of ten bytes repeats the header.
    size = data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9]
    return 10 + size + (10 if data[5] & 0x10 else 0)
