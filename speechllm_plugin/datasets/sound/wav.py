"""Where the samples of a wav file lie, whatever its header says.

A program that writes into a pipe cannot know the size of what it writes; one that is killed leaves the size that it
wrote first; one that counts wrong adds its header; and 32 bits hold no more than 4 GiB. libsndfile believes the size,
or refuses it. The bytes themselves tell more.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from speechllm_plugin.datasets.sound.api import SoundError
from speechllm_plugin.datasets.sound.surplus import WAV, is_explained
from speechllm_plugin.files.byte_range import ByteRange

MP3 = 0x55
"""Format tag of wav files that hold mp3."""
# Formats whose samples libsndfile reads: PCM, MS ADPCM, floats, A-law, u-law, IMA ADPCM, GSM 6.10, G.721, NMS ADPCM.
_SNDFILE = frozenset({0x0001, 0x0002, 0x0003, 0x0006, 0x0007, 0x0011, 0x0031, 0x0038, 0x0040, 0xFFFE})
_NAMES = {
    0x0022: "TrueSpeech", 0x0042: "G.723", 0x0045: "G.726", 0x0050: "MPEG layer I or II", 0x00FF: "AAC",
    0x0160: "Windows Media Audio", 0x0161: "Windows Media Audio", 0x0162: "Windows Media Audio", 0x2000: "AC-3",
}  # fmt: skip
_FOUR_GIB = 1 << 32
# Programs that write into a pipe state the largest size, or nearly (sox: 0x7FFFF000); speech servers a round number.
_SIZE_OF_STREAM = 0x7FFF_0000
_LEAST_PLACEHOLDER, _ROUND = 1_000_000_000, 1_000_000
# Bytes by which recorders count too many, since they include a part of their header.
_MISCOUNTED = 44
_LONGEST_HEAD = 1 << 20


@dataclass(frozen=True)
class Wav:
    format_tag: int
    samples: ByteRange
    """The bytes of the samples."""
    head: bytes | None
    """The header to put before `samples` instead of the file's own; `None` where that is right."""
    stated_samples: int | None
    """Samples of each channel that the chunk `fact` states."""
    surplus: int
    """Bytes of samples after the end that the header states."""

    @property
    def other_codec(self) -> str | None:
        """The codec in words, where it is neither mp3 nor one that libsndfile reads; else `None`."""
        if self.format_tag in _SNDFILE or self.format_tag == MP3:
            return None
        return f"{_NAMES.get(self.format_tag, 'a codec')} (format 0x{self.format_tag:04X}) in wav"


def read_wav(data: ByteRange) -> Wav | None:
    """Finds the samples; `None` where the chunks do not lead to them: libsndfile may say why.

    :raises SoundError: the file was cut short.
    """
    # Big-endian wav is left to libsndfile.
    found = None if data.read(0, 4) == b"RIFX" else _find_samples(data)
    if found is None:
        return None
    chunks, start, stated = found
    if len(chunks.get(b"fmt ", b"")) < 16:
        return None
    tag = struct.unpack_from("<H", chunks[b"fmt "])[0]
    stop, surplus = _true_end(data, start, stated)
    fact = chunks.get(b"fact", b"")
    return Wav(
        format_tag=tag,
        samples=data.part(start, stop),
        head=None if stop == start + stated else _head(data, start, stop - start),
        stated_samples=struct.unpack_from("<I", fact)[0] if len(fact) >= 4 else None,
        surplus=surplus,
    )


def _find_samples(data: ByteRange) -> tuple[dict[bytes, bytes], int, int] | None:
    """The chunks before the samples, the place of the first sample, and the number of bytes that the header states."""
    chunks: dict[bytes, bytes] = {}
    position = 12
    while position < _LONGEST_HEAD:
        head = data.read(position, 8)
        if len(head) < 8:
            return None
        name, size = struct.unpack("<4sI", head)
        position += 8
        if name == b"data":
            if size == 0xFFFF_FFFF and len(chunks.get(b"ds64", b"")) >= 16:
                size = struct.unpack_from("<Q", chunks[b"ds64"], 8)[0]
            return chunks, position, size
        chunks[name] = data.read(position, min(size, 256))
        position += size + size % 2
    return None


def _true_end(data: ByteRange, start: int, stated: int) -> tuple[int, int]:
    """The end of the samples, and how many bytes of samples lie after the stated end without an explanation.

    :raises SoundError: the file was cut short.
    """
    present = data.size - start
    if stated > present:
        is_placeholder = stated >= _SIZE_OF_STREAM or (stated >= _LEAST_PLACEHOLDER and stated % _ROUND == 0)
        if is_placeholder or stated - present <= _MISCOUNTED or stated - present == start:
            return data.size, 0
        raise SoundError(f"found {present} bytes of samples where its header states {stated}, expected a whole file")
    if present == stated or is_explained(data, start + stated, WAV):
        return start + stated, 0
    # A stated size of 0 is that of a stream, whose length was unknown when the header was written.
    return data.size, 0 if stated == 0 else present - stated


def _head(data: ByteRange, start: int, size: int) -> bytes:
    """The header as it should be: everything before the samples, with the right sizes."""
    head = data.read(0, start)
    if head[:4] == b"RIFF" and start + size < _FOUR_GIB:
        return head[:4] + struct.pack("<I", start - 8 + size) + head[8:-4] + struct.pack("<I", size)
    # The chunk ds64 of an RF64 file is left out here and written anew.
    rest = head[12:] if head[12:16] != b"ds64" else head[20 + struct.unpack_from("<I", head, 16)[0] :]
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, len(rest) + 40 + size, size, 0, 0)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + rest[:-4] + b"\xff\xff\xff\xff"
