"""Several recordings in one file, read as one sound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import soxr

from speechllm_plugin.datasets.sound.api import Block, Sound
from speechllm_plugin.datasets.sound.notes import tell

# More samples than any file holds.
_ALL = 1 << 62


def join(parts: Sequence[Sound], name: str) -> Sound:
    """
    :param name: what the user calls the file, for notes.
    """
    return parts[0] if len(parts) == 1 else _Joined(parts, name)


class _Joined:
    """See `Sound`. Reads the parts in order, and brings each to the rate and channels of the first."""

    def __init__(self, parts: Sequence[Sound], name: str) -> None:
        first = parts[0]
        other = next((part for part in parts if (part.rate, part.channels) != (first.rate, first.channels)), None)
        if other is not None:
            tell(
                "unlike recordings", name,
                f"holds {len(parts)} recordings, of {first.channels} channel(s) at {first.rate} Hz and "
                f"{other.channels} at {other.rate} Hz; those unlike the first were brought to its rate and channels",
            )  # fmt: skip
        self._parts = [_fitted(part, first.rate, first.channels) for part in parts]
        self.format, self.rate, self.channels = first.format, first.rate, first.channels
        self.frames = sum(part.frames for part in self._parts)
        self.slack = sum(part.slack for part in self._parts)
        self.is_estimate = any(part.is_estimate for part in self._parts)

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        for part in self._parts:
            if length <= 0:
                return
            # Where only decoding tells the length of a part, it is decoded up to `start`.
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


def _fitted(part: Sound, rate: int, channels: int) -> Sound:
    return part if (part.rate, part.channels) == (rate, channels) else _Fitted(part, rate, channels)


class _Fitted:
    """See `Sound`. Converts a sound to another rate and number of channels."""

    def __init__(self, sound: Sound, rate: int, channels: int) -> None:
        self._sound = sound
        self.format, self.rate, self.channels = sound.format, rate, channels
        self.frames = round(sound.frames * rate / sound.rate)
        # A resampler may round the number of samples up or down.
        self.slack = 1 + math.ceil(sound.slack * rate / sound.rate)
        self.is_estimate = sound.is_estimate

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        """Decodes from the beginning on, since a resampler needs the samples before `start`."""
        for block in self._whole():
            kept = block[start : start + length]
            start -= min(start, len(block))
            length -= len(kept)
            if len(kept):
                yield kept
            if length <= 0:
                return

    def _whole(self) -> Iterator[Block]:
        sound = self._sound
        resampler = soxr.ResampleStream(sound.rate, self.rate, self.channels, dtype="float32", quality="HQ")
        for block in sound.blocks(0, _ALL if sound.is_estimate else sound.frames):
            yield resampler.resample_chunk(self._spread(block)).reshape(-1, self.channels)
        yield resampler.resample_chunk(self._spread(np.zeros((0, sound.channels), np.float32)), last=True).reshape(
            -1, self.channels
        )

    def _spread(self, block: Block) -> Block:
        """`[n, channels of the sound]` -> `[n, channels]`: each channel gets the mean."""
        if block.shape[1] == self.channels:
            return np.ascontiguousarray(block)
        return np.repeat(block.mean(axis=1, keepdims=True), self.channels, axis=1)

    def close(self) -> None:
        self._sound.close()
