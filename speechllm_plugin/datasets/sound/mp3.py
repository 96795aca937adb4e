"""The frames of an MP3 stream, found without decoding it (ISO 11172-3, 13818-3).

MP3 has no container: the length is what an optional tag in the first frame says, or a guess from the first frame's
bit rate. libsndfile believes either and stops there, so that a file of varying bit rate without the tag, or two files
put together, would lose its end silently; it refuses bytes in front of the first frame; and a seek in a file of varying
bit rate garbles what follows, because a frame's sound begins in the bytes of frames before it. The frames'
offsets give the true length, and decoding can start at any of them.
"""

from __future__ import annotations

import functools
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from speechllm_plugin.datasets.sound.api import SoundError
from speechllm_plugin.datasets.sound.tags import end_of_tag
from speechllm_plugin.files.byte_range import ByteRange

# kbit/s by the header's four-bit index; 0 is "free format", which has no frame size, and 15 is invalid.
_BITRATES_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_BITRATES_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = (44100, 48000, 32000)
# By the two version bits (1 is reserved): samples per frame, divisor of the sample rates, bit rates.
_VERSIONS = {3: (1152, 1, _BITRATES_1), 2: (576, 2, _BITRATES_2), 0: (576, 4, _BITRATES_2)}
_BLOCK = 1 << 20
_LONGEST_FRAME = 2881
# Delay of the decoder itself, in samples, which it removes where there is a tag.
_DECODER_DELAY = 529
# A frame's data begins up to 511 bytes before it (several frames of a low bit rate), and the filters span two frames
# more. At 16 kHz and the lowest rates 12 frames were too few.
RUN_UP = 30
# The encoder's delay and padding, which the decoder may or may not trim, are at most this many frames.
_FRAMES_OF_SLACK = 4
_LEAST_TAG_FRAME = 200
_MONO = 3
_FRAMES_TO_BE_SURE = 3


@dataclass(frozen=True)
class Mp3Frames:
    """What a walk over the frame headers found."""

    places: array[int]
    """Offset of each whole frame with sound, then the end of the last one."""

    rate: int

    samples_per_frame: int

    tag_at: int | None
    """Offset of the leading frame that holds the tag in place of sound."""

    stated: int | None
    """Number of frames with sound that the tag states."""

    knows_delays: bool
    """Whether the tag is the one that decoders look for, with the encoder's delay and padding."""

    delay: int
    """Samples at the beginning that a decoder leaves out because of the tag."""

    padding: int
    """Samples at the end that a decoder leaves out because of the tag."""

    leaning: int
    """Leading frames that cannot be decoded, since their data begins before the first frame."""

    lost_at: int | None
    """First byte between two frames that belongs to neither; `None` where frame follows frame."""

    other_at: int | None
    """Where a stream of another rate or number of channels begins; its frames are not counted here."""

    @property
    def count(self) -> int:
        return max(0, len(self.places) - 1)

    @property
    def samples(self) -> int:
        """Samples of each channel in all whole frames, the encoder's delay and padding included."""
        return self.count * self.samples_per_frame

    @property
    def is_tag_right(self) -> bool:
        """Whether a decoder that believes the tag reads all frames, and no more than there are."""
        return self.knows_delays and self.stated is not None and abs(self.stated - self.count) <= _FRAMES_OF_SLACK

    @property
    def length(self) -> int:
        """Samples that a decoder gives: without delay and padding, where it knows them."""
        if self.is_tag_right:
            return max(0, (self.stated or 0) * self.samples_per_frame - self.delay - self.padding)
        return self.samples - self.lead

    @property
    def lead(self) -> int:
        """Samples before the first one that a decoder gives."""
        return self.delay if self.is_tag_right else self.leaning * self.samples_per_frame

    @property
    def slack(self) -> int:
        """Samples by which the stated length may differ in a file without faults."""
        return _FRAMES_OF_SLACK * self.samples_per_frame

    def check(self) -> None:
        """
        :raises SoundError: frames are missing.
        """
        if self.lost_at is not None:
            raise SoundError(f"found bytes that are no MP3 frame at byte {self.lost_at}, expected a whole file")
        if self.stated is not None and self.count < self.stated - _FRAMES_OF_SLACK:
            raise SoundError(
                f"found MP3 frames for {self.samples / self.rate:.2f} s where its header states "
                f"{self.stated * self.samples_per_frame / self.rate:.2f} s, expected a whole file"
            )


def read_frames(data: ByteRange) -> Mp3Frames | None:
    """Walk over the frames; `None` where there are none of layer III with a stated bit rate."""
    position = _find(data, 0)
    if position is None:
        return None
    first = _header(data.read(position, 4))
    assert first is not None
    size, samples, kind = first
    tag = _read_tag(data.read(position, size))
    tag_at = position if tag.is_there else None
    position += size if tag.is_there else 0

    places = array("q")
    lost_at = other_at = None
    base, block, end_of_data = position, data.read(position, _BLOCK), data.size
    filled = len(block)
    sizes: dict[int, int] = {}
    while True:
        offset = position - base
        if offset + _LONGEST_FRAME + 4 > filled and base + filled < end_of_data:
            base, offset, block = position, 0, data.read(position, _BLOCK)
            filled = len(block)
        # There are forty frames a second, so each distinct header is parsed once and then looked up.
        if offset + 4 <= filled and block[offset] == 0xFF and (block[offset + 3] >> 6 == _MONO) == kind[2]:
            known = sizes.get(block[offset + 1] << 8 | block[offset + 2])
            if known is not None and position + known <= end_of_data:
                places.append(position)
                position += known
                continue
        header = _header(block[offset : offset + 4])
        if header is None or header[2] != kind:
            # A tag may stand between joined recordings.
            if places and (end := end_of_tag(data, position)) is not None and end < end_of_data:
                position = end
                continue
            again = _find(data, position)
            # Bytes after the last frame are tags and padding, not damage.
            if again is None:
                break
            lost_at = position if lost_at is None and again > position else lost_at
            position = again
            found = _header(data.read(again, 4))
            assert found is not None
            if found[2] != kind and places:
                other_at = again
                break
            # The frame of the tag may have other channels than the sound.
            _, samples, kind = found
            continue
        if position + header[0] > end_of_data:
            break
        sizes[block[offset + 1] << 8 | block[offset + 2]] = header[0]
    if places:
        last = _header(data.read(places[-1], 4))
        assert last is not None
        places.append(places[-1] + last[0])
    # A piece that was cut out of a stream begins with frames whose data lies before it.
    leaning = 0 if tag.is_there else sum(1 for _ in _leaning(data, places))
    rate = _RATES[kind[1]] // _VERSIONS[kind[0]][1]
    return Mp3Frames(
        places, rate, samples, tag_at, tag.frames, tag.knows_delays, tag.delay, tag.padding, leaning, lost_at, other_at
    )


def cut_out(data: ByteRange, frames: Mp3Frames, first: int, last: int) -> tuple[bytes, ByteRange, int]:
    """The frames from `first` to before `last` as a stream of its own: its first bytes, the range of the file that
    follows them, and the number of samples that a decoder gives before those of frame `first`."""
    header = data.read(frames.places[first], 4)
    # After the tag a decoder drops its delay: a silent frame is put there to be dropped.
    head = _empty_frame(header, b"Xing" + struct.pack(">II", 1, last - first + 1)) + _empty_frame(header, b"")
    for frame, before in _leaning(data, frames.places[first : last + 1]):
        place, is_first_version, size = _side(frame)
        # The frame's own data is cut off and cannot be decoded, and mpg123 complains. Without side information the
        # frame is silent. It still refers back as far as it can, since mpg123 looks for earlier bytes only in the last
        # frame.
        reach = min(before, 511 if is_first_version else 255)
        frame[place : place + 2] = (reach << 7).to_bytes(2, "big") if is_first_version else bytes((reach, 0))
        frame[place + 2 : place + size] = bytes(size - 2)
        head += frame
        first += 1
    return head, data.part(frames.places[first], frames.places[last]), frames.samples_per_frame - _DECODER_DELAY


def _leaning(data: ByteRange, places: Sequence[int]) -> Iterator[tuple[bytearray, int]]:
    """Leading frames whose data begins before the first frame, each with the bytes of data before it."""
    before = 0
    for begin, end in zip(places, places[1:], strict=False):
        frame = bytearray(data.read(begin, end - begin))
        place, is_first_version, size = _side(frame)
        back = int.from_bytes(frame[place : place + 2], "big") >> 7 if is_first_version else frame[place]
        if back <= before:
            return
        yield frame, before
        before += len(frame) - place - size


def _side(frame: bytes) -> tuple[int, bool, int]:
    """Offset of the side information, which begins with the distance back to the frame's data; whether it is that of
    MPEG-1; and its size."""
    # A checksum may stand before the side information.
    return 4 if frame[1] & 1 else 6, (frame[1] >> 3) & 3 == 3, _side_information(frame)


def _empty_frame(header: bytes, content: bytes) -> bytes:
    """A silent frame of the same stream as a frame with `header`."""
    # The frame has no checksum, no padding, and a bit rate that leaves room for the tag.
    heads = (bytes((0xFF, header[1] | 1, index << 4 | header[2] & 0x0C, header[3])) for index in range(1, 15))
    sizes = ((head, found[0]) for head in heads if (found := _header(head)) is not None)
    head, size = next(pair for pair in sizes if pair[1] >= _LEAST_TAG_FRAME)
    return (head + bytes(_side_information(header)) + content).ljust(size, b"\0")


def _side_information(header: bytes) -> int:
    is_mono = header[3] >> 6 == _MONO
    if (header[1] >> 3) & 3 == 3:
        return 17 if is_mono else 32
    return 9 if is_mono else 17


@dataclass(frozen=True)
class _Tag:
    is_there: bool = False
    knows_delays: bool = False
    frames: int | None = None
    delay: int = 0
    padding: int = 0


def _read_tag(frame: bytes) -> _Tag:
    # The tag stands after the side information, before which a checksum of two bytes may stand.
    place = 4 + _side_information(frame)
    at = next((place + extra for extra in (0, 2) if frame[place + extra :][:4] in (b"Xing", b"Info")), None)
    if at is None:
        at = frame.find(b"VBRI", 4, 44)
        if at < 0:
            return _Tag()
        return _Tag(True, frames=struct.unpack_from(">I", frame, at + 14)[0] if at + 18 <= len(frame) else None)
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    stated = int.from_bytes(frame[at + 8 : at + 12], "big") if flags & 1 else None
    # Frames, bytes, table of contents and quality, each optional; then the encoder's name and its delays.
    encoder = at + 8 + 4 * bool(flags & 1) + 4 * bool(flags & 2) + 100 * bool(flags & 4) + 4 * bool(flags & 8)
    delays = frame[encoder + 21 : encoder + 24]
    if len(delays) < 3 or not frame[encoder]:
        return _Tag(True, frames=stated)
    delay, padding = delays[0] << 4 | delays[1] >> 4, (delays[1] & 15) << 8 | delays[2]
    return _Tag(True, True, stated, delay + _DECODER_DELAY, max(0, padding - _DECODER_DELAY))


_Kind = tuple[int, int, bool]


def _header(header: bytes) -> tuple[int, int, _Kind] | None:
    """Size in bytes, samples per channel, and the constants of a stream (version, rate, whether it is mono)."""
    if len(header) < 4 or header[0] != 0xFF:
        return None
    return _frame(header[1], header[2], header[3] >> 6 == _MONO)


@functools.cache
def _frame(second: int, third: int, is_mono: bool) -> tuple[int, int, _Kind] | None:
    """:func:`_header` by the values that decide it, of which a stream has few."""
    if second & 0xE0 != 0xE0 or (second >> 1) & 3 != 1:
        return None
    version = (second >> 3) & 3
    bitrate_index, rate_index, padding = third >> 4, (third >> 2) & 3, (third >> 1) & 1
    if version == 1 or bitrate_index in (0, 15) or rate_index == 3:
        return None
    samples, divisor, bitrates = _VERSIONS[version]
    rate = _RATES[rate_index] // divisor
    return samples // 8 * bitrates[bitrate_index] * 1000 // rate + padding, samples, (version, rate_index, is_mono)


def _find(data: ByteRange, position: int) -> int | None:
    """The next frame from `position` on. Several headers must follow each other, since one alone is often chance."""
    while position < data.size:
        block = data.read(position, _BLOCK + 4)
        place = block.find(b"\xff")
        while 0 <= place < _BLOCK:
            header = _header(block[place : place + 4])
            if header is not None and _is_followed(data, position + place, header[2]):
                return position + place
            place = block.find(b"\xff", place + 1)
        position += _BLOCK
    return None


def _is_followed(data: ByteRange, position: int, kind: _Kind) -> bool:
    for number in range(_FRAMES_TO_BE_SURE):
        if position == data.size and number > 1:
            # A file of two frames is valid.
            return True
        header = _header(data.read(position, 4))
        if header is None or header[2] != kind:
            # The next frame may be a tag, or cut off.
            return number > 1 and data.size - position < _LONGEST_FRAME
        position += header[0]
    return True
