"""The contract of a decoder, and its error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[np.float32]
"""Samples `[n, channels]`; valid until the next block is asked for."""


class SoundError(Exception):
    """Sound that cannot be decoded. The message follows "NAME: " and says what was found and what was expected."""


def later_part(whole: str, ending: str) -> str:
    """The message for a piece of a stream that lacks the stream's beginning."""
    return (
        f"found a later part of {whole}, without its header, expected all parts; `cat FIRST NEXT ... > OUT.{ending}` "
        "joins them"
    )


class Sound(Protocol):
    """An opened sound; nothing is decoded until `blocks` is called."""

    format: str
    rate: int
    channels: int

    frames: int
    """Samples of each channel, as the container states or as its packets were counted."""

    slack: int
    """Samples by which decoding may fall short of `frames` without a loss."""

    is_estimate: bool
    """Whether decoding may give more than `frames`."""

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        """Decodes `length` samples from `start` on, or fewer where there are no more. Called once.

        :raises SoundError: they cannot be decoded.
        """

    def close(self) -> None: ...
