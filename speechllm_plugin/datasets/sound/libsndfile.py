"""Decodes by libsndfile, without the seeks that its Python binding adds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from typing_extensions import override

from speechllm_plugin.datasets.sound.api import Block, SoundError
from speechllm_plugin.files.byte_range import ByteRange, Spliced

_BLOCK = 1 << 17
# libsndfile logs chunks that claim more bytes than the file has, in the same words for all formats that state a size.
# Only the chunk with the samples counts: wrong sizes elsewhere are common and harmless.
_STATED_SIZE = re.compile(r"^\s*(?:data|SSND|Data Size|riff|BODY)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_SIZE_OF_STREAM = 0x7F00_0000
# libsndfile's largest count, which stands for "the header does not say".
_UNKNOWN_LENGTH = (1 << 63) - 1


class _File(soundfile.SoundFile):
    """Says that it cannot seek. Otherwise the binding seeks to the current position after each read, which resets
    decoders: mp3 is then garbled, and flac without a length fails at its end."""

    @override
    def seekable(self) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a range of bytes is read; by default the bytes of the range and nothing else."""

    head: bytes = b""
    """Bytes to put before the range."""
    skip: int = 0
    """Leading samples that are dropped: the run-up of an mp3."""
    frames: int | None = None
    """Number of samples, where libsndfile's count is wrong."""
    slack: int = 0
    safe_start: int | None = None
    """The last sample that an exact seek can reach; later ones are reached by reading on. 0 = never seek; `None` =
    every seek is exact."""
    is_gsm: bool = False
    """Bare frames of GSM 6.10, which have no header."""


WHOLE = Opening()


class SndfileSound:
    """See `Sound`."""

    def __init__(self, data: ByteRange, opening: Opening = WHOLE, *, by_position: bool = False) -> None:
        """
        :param by_position: whether another sound reads the same open file at the same time.
        :raises soundfile.LibsndfileError: libsndfile does not know the format.
        :raises SoundError: the header states more samples than there are.
        """
        # A descriptor is best: libsndfile would trust the ending of a name, and a file object needs Python's lock.
        whole = not by_position and not opening.head and data.is_whole_file
        raw: dict[str, Any] = (
            {"samplerate": 8000, "channels": 1, "format": "RAW", "subtype": "GSM610"} if opening.is_gsm else {}
        )
        if whole:
            data.rewind()
            self._spliced = None
            self._file = _File(data.descriptor, closefd=False, **raw)
        else:
            self._spliced = Spliced(opening.head, data)
            self._file = _File(self._spliced, **raw)
        self._data, self._opening = data, opening
        self.format: str = self._file.format
        self.subtype: str = self._file.subtype
        self.rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.slack = opening.slack
        self.is_estimate = False
        found = self._file.frames if opening.frames is None else opening.frames
        self.frames: int = found - opening.skip
        try:
            self._check()
        except SoundError:
            self.close()
            raise

    def _check(self) -> None:
        if self.frames == _UNKNOWN_LENGTH:
            raise SoundError("found a header that states no length, expected a finished file")
        for match in _STATED_SIZE.finditer(self._file.extra_info):
            stated, present = int(match[1]), int(match[2])
            if present < stated < _SIZE_OF_STREAM:
                raise SoundError(
                    f"found {present} bytes of samples where its header states {stated}, expected a whole file"
                )

    @property
    def read_to(self) -> int:
        """Place of the first byte of the range that has not been read; decoders read ahead."""
        if self._spliced is None:
            return os.lseek(self._data.descriptor, 0, os.SEEK_CUR)
        return self._spliced.tell() - len(self._opening.head)

    def again(self) -> SndfileSound:
        """The same sound, opened a second time and read independently."""
        return SndfileSound(self._data, self._opening, by_position=True)

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        buffer = np.empty((min(_BLOCK, max(1, length)), self.channels), dtype=np.float32)
        done = 0
        try:
            skip = self._opening.skip + self._seek(start)
            while skip > 0:
                found = len(self._file.read(out=buffer[: min(skip, len(buffer))]))
                if not found:
                    break
                skip -= found
            while done < length and skip == 0:
                wanted = min(length - done, len(buffer))
                block = self._file.read(out=buffer[:wanted])
                done += len(block)
                if len(block):
                    yield block
                # The first short block is the end: after a gap libsndfile would go on with sound from elsewhere.
                if len(block) < wanted:
                    return
        except soundfile.LibsndfileError as error:
            reason = error.error_string.rstrip(".")
            raise SoundError(f"found {done} readable samples ({reason}), expected {length} samples") from None

    def _seek(self, start: int) -> int:
        """Seeks to `start` or before it; gives the number of samples that are still to be skipped."""
        place = start if self._opening.safe_start is None else min(start, self._opening.safe_start)
        if place == 0:
            return start
        try:
            self._file.seek(place)
        except soundfile.LibsndfileError as error:
            if self.format == "FLAC":
                raise SoundError(
                    f"found damage before sample {start} ({error.error_string.rstrip('.')}), expected a whole file"
                ) from None
            # Telephone codecs cannot seek: the file still stands at the beginning.
            return start
        return start - place

    def close(self) -> None:
        self._file.close()
