"""What a decoder gives, and how it says that it cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[np.float32]
"""Samples `[n, channels]`; valid until the next block is asked for."""


class SoundError(Exception):
    """The message goes on where "NAME: " ends: what was found and what was expected."""


def later_part(whole: str, ending: str) -> str:
    """What to say of a piece of a stream that lacks the stream's beginning."""
    return (
        f"found a later part of {whole}, without its header, expected all parts; `cat FIRST NEXT ... > OUT.{ending}` "
        "joins them"
    )


class Sound(Protocol):
    """An opened sound, of which nothing is decoded yet."""

    format: str
    rate: int
    channels: int

    frames: int
    """Samples of each channel, as the container states or as its packets were counted."""

    slack: int
    """How many fewer samples may come out without anything being lost."""

    is_estimate: bool
    """Whether more may come out than `frames`."""

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        """Decodes `length` samples from `start` on; stops early where there are no more. Asked once.

        :raises SoundError: they cannot be decoded.
        """

    def close(self) -> None: ...


class Joined:
    """Sounds one after the other, of one rate and as many channels."""

    def __init__(self, parts: Sequence[Sound]) -> None:
        """
        :raises SoundError: the parts differ.
        """
        first = parts[0]
        for part in parts[1:]:
            if (part.rate, part.channels) != (first.rate, first.channels):
                raise SoundError(
                    f"found {len(parts)} recordings in one file, of {first.channels} channel(s) at {first.rate} Hz and "
                    f"{part.channels} at {part.rate} Hz, expected them alike"
                )
        self._parts = parts
        self.format, self.rate, self.channels = first.format, first.rate, first.channels
        self.frames = sum(part.frames for part in parts)
        self.slack = sum(part.slack for part in parts)
        self.is_estimate = any(part.is_estimate for part in parts)

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        for part in self._parts:
            if length <= 0:
                return
            # Where only decoding tells how long a part is, it is decoded up to the place.
            is_exact = part.slack == 0 and not part.is_estimate
            begin = min(start, part.frames) if is_exact else 0
            start -= begin
            wanted = start + length if part.is_estimate else min(start + length, part.frames - begin)
            for block in part.blocks(begin, wanted) if wanted else ():
                kept = block[start : start + length]
                start -= min(start, len(block))
                length -= len(kept)
                if len(kept):
                    yield kept

    def close(self) -> None:
        for part in self._parts:
            part.close()
