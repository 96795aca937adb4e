"""flac files without a length, and several of them in one (RFC 9639)."""

from __future__ import annotations

from speechllm_plugin.datasets.sound.bytes import ByteRange

_MARKER = b"fLaC"
# Behind it the block that every stream begins with, 34 bytes long, which may be the last of its kind.
_FIRST_BLOCKS = (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")
_INFO, _FIRST_BLOCK_END = 8, 42
_TOTAL = 21
_TAIL, _SHORT_TAIL = 1 << 20, 1 << 16
_LONGEST_FRAME_HEADER = 16
# Samples of a frame by a code of four bits; 6 and 7 say that the number follows.
_SIZES = {1: 192, **{2 + i: 576 << i for i in range(4)}, **{8 + i: 256 << i for i in range(8)}}


def find_streams(data: ByteRange) -> list[ByteRange]:
    """The streams of a file: nearly always it is one."""
    starts = [0]
    position = 0
    while (found := data.find(_MARKER, position + len(_MARKER))) is not None:
        position = found
        if data.read(position + len(_MARKER), 4) in _FIRST_BLOCKS:
            starts.append(position)
    return [data.part(start, stop) for start, stop in zip(starts, [*starts[1:], data.size], strict=True)]


def seems_alone(data: ByteRange) -> bool:
    """Whether the last frame ends where the first header says, so that nothing hints at another stream; reads the end
    alone. Of recordings as long as one another it is not the truth."""
    header = data.read(0, _FIRST_BLOCK_END)
    total = _total(header) if len(header) == _FIRST_BLOCK_END else 0
    return total != 0 and _count_samples(data, header, _SHORT_TAIL) == total


def mended_header(data: ByteRange) -> tuple[bytes, int] | None:
    """Where the header does not say how many samples follow, as encoders that write to a pipe leave it: the header that
    does, and how many bytes it replaces. `None` where nothing is to be mended, or no frame tells."""
    header = bytearray(data.read(0, _FIRST_BLOCK_END))
    if len(header) < _FIRST_BLOCK_END or _total(header):
        return None
    total = _count_samples(data, header, _TAIL)
    if not total:
        return None
    header[_TOTAL] |= total >> 32
    header[_TOTAL + 1 : _TOTAL + 5] = (total & 0xFFFF_FFFF).to_bytes(4, "big")
    return bytes(header), _FIRST_BLOCK_END


def _total(header: bytes) -> int:
    return (header[_TOTAL] & 15) << 32 | int.from_bytes(header[_TOTAL + 1 : _TOTAL + 5], "big")


def _count_samples(data: ByteRange, header: bytes, length: int) -> int | None:
    """The end of the last frame. Each frame tells where it begins; by chance a frame's bytes look like one, too."""
    block_size = int.from_bytes(header[_INFO : _INFO + 2], "big")
    tail = data.read(max(_FIRST_BLOCK_END, data.size - length), length)
    frames = []
    place = tail.find(b"\xff")
    while place >= 0:
        if (frame := _frame(tail[place : place + _LONGEST_FRAME_HEADER], block_size)) is not None:
            frames.append(frame)
        place = tail.find(b"\xff", place + 1)
    # Chance puts no frame where the one before it ends: the last one that another leads to, or the only one.
    ends = {end for _, end in frames}
    led_to = [end for start, end in frames if start in ends or start == 0]
    return max(led_to, default=None)


def _frame(header: bytes, block_size: int) -> tuple[int, int] | None:
    """First sample of a frame, and the first one behind it; `None` where its checksum is wrong."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    code, rate_code = header[2] >> 4, header[2] & 15
    number, place = _number(header)
    if number is None or code == 0 or rate_code == 15:
        return None
    if code in (6, 7):
        width = code - 5
        size = int.from_bytes(header[place : place + width], "big") + 1
        place += width
    else:
        size = _SIZES[code]
    place += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if place >= len(header) or _checksum(header[:place]) != header[place]:
        return None
    # Frames of one size are numbered, others tell their first sample.
    start = number if header[1] & 1 else number * block_size
    return start, start + size


def _number(header: bytes) -> tuple[int | None, int]:
    """A number coded as in UTF-8, and the byte behind it."""
    first = header[4]
    if first < 0x80:
        return first, 5
    length = 8 - (first ^ 0xFF).bit_length()
    if length < 2 or len(header) < 4 + length:
        return None, 5
    number = first & (0x7F >> length)
    for byte in header[5 : 4 + length]:
        if byte & 0xC0 != 0x80:
            return None, 5
        number = number << 6 | byte & 0x3F
    return number, 4 + length


def _checksum(data: bytes) -> int:
    """CRC-8 with the polynomial x^8 + x^2 + x + 1."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value
