"""flac files without a length, and several of them in one (RFC 9639)."""

from __future__ import annotations

import re

from speechllm_plugin.files.byte_range import ByteRange, Mended

_MARKER = b"fLaC"
# The magic is followed by the header of STREAMINFO, 34 bytes long, which may be the last metadata block.
_FIRST_BLOCKS = (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")
_INFO, _LARGEST, _TOTAL, _FIRST_BLOCK_END = 8, 15, 21, 42
# Usual size of seek tables, tags and padding; where a picture makes it larger, the file is searched.
_USUAL_METADATA = 1 << 14
_TAIL, _SHORT_TAIL = 1 << 20, 1 << 16
_LONGEST_FRAME_HEADER = 16
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
# Samples of a frame by a code of four bits; after the codes 6 and 7 the number follows.
_SIZES = {1: 192, **{2 + i: 576 << i for i in range(4)}, **{8 + i: 256 << i for i in range(8)}}


def find_streams(data: ByteRange, begin: int = 0) -> list[ByteRange]:
    """The streams of a file, nearly always one.

    :param begin: streams that begin before this byte are left out.
    """
    starts = [] if begin else [0]
    place = begin or len(_MARKER)
    while (found := data.find(_MARKER, place)) is not None:
        place = found + len(_MARKER)
        if data.read(place, 4) in _FIRST_BLOCKS:
            starts.append(found)
    return [data.part(start, stop) for start, stop in zip(starts, [*starts, data.size][1:], strict=True)]


def seems_alone(data: ByteRange) -> bool:
    """Whether nothing hints at a second stream: the last frame ends where the first header says, and the file has no
    more bytes than its largest frame allows. Only both ends are read. Two recordings of the same length that are silent
    for more than half of the time may seem to be one."""
    header = data.read(0, _FIRST_BLOCK_END)
    total = _total(header) if len(header) == _FIRST_BLOCK_END else 0
    if total == 0:
        return False
    block_size, largest = _number_at(header, _INFO, 2), _number_at(header, _LARGEST, 3)
    if largest and data.size > _USUAL_METADATA + largest * -(-total // max(block_size, 1)):
        return False
    ends = _ends(data, header, _SHORT_TAIL)
    return ends[-1:] == [total] and ends == sorted(set(ends))


def mended_header(data: ByteRange) -> Mended | None:
    """The stream with a header that states its number of samples, where encoders that wrote to a pipe left it out.
    `None` where nothing is to be mended, or no frame tells the number."""
    header = bytearray(data.read(0, _FIRST_BLOCK_END))
    if len(header) < _FIRST_BLOCK_END or _total(header):
        return None
    total = max(_ends(data, header, _TAIL), default=0)
    if not total:
        return None
    header[_TOTAL] |= total >> 32
    header[_TOTAL + 1 : _TOTAL + 5] = (total & 0xFFFF_FFFF).to_bytes(4, "big")
    return Mended(bytes(header), data.part(_FIRST_BLOCK_END, data.size))


def _total(header: bytes) -> int:
    return (header[_TOTAL] & 15) << 32 | _number_at(header, _TOTAL + 1, 4)


def _number_at(header: bytes, place: int, size: int) -> int:
    return int.from_bytes(header[place : place + size], "big")


def _ends(data: ByteRange, header: bytes, length: int) -> list[int]:
    """The ends of the last frames, in samples. Each frame states where it begins; bytes inside a frame may look like
    another frame by chance."""
    block_size = _number_at(header, _INFO, 2)
    tail = data.read(max(_FIRST_BLOCK_END, data.size - length), length)
    heads = (tail[match.start() : match.start() + _LONGEST_FRAME_HEADER] for match in _SYNC.finditer(tail))
    frames = [frame for head in heads if (frame := _frame(head, block_size)) is not None]
    # A chance frame does not begin where another ends. So take the last frame that does, or the only one.
    ends = {end for _, end in frames}
    return [end for start, end in frames if start in ends or start == 0]


def _frame(header: bytes, block_size: int) -> tuple[int, int] | None:
    """First sample of a frame, and the first one after it; `None` where its checksum is wrong."""
    if len(header) < 6 or header[3] & 1:
        return None
    code, rate_code = header[2] >> 4, header[2] & 15
    number, place = _number(header)
    if number is None or code == 0 or rate_code == 15:
        return None
    if code in (6, 7):
        width = code - 5
        size = _number_at(header, place, width) + 1
        place += width
    else:
        size = _SIZES[code]
    place += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if place >= len(header) or _checksum(header[:place]) != header[place]:
        return None
    # Frames of one size are numbered; others state their first sample.
    start = number if header[1] & 1 else number * block_size
    return start, start + size


def _number(header: bytes) -> tuple[int | None, int]:
    """A number coded as in UTF-8, and the place of the byte after it."""
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
