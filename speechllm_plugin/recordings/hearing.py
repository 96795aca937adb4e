"""Gives a file in pieces that an encoder can take: a short file whole, a long one cut."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from speechllm_plugin.datasets.audio import SAMPLE_RATE, AudioSource, stream_audio
from speechllm_plugin.errors import UserError
from speechllm_plugin.recordings.cutting import CutConfig, Piece, cut
from speechllm_plugin.recordings.voice import VoiceActivity


class Hearing:
    """The pieces of one file, decoded on demand. Only a short file is ever in memory as a whole."""

    def __init__(self, source: AudioSource, whole: float, config: CutConfig, *, most: float = math.inf) -> None:
        """
        :param whole: seconds up to which the file is one piece, with or without pauses.
        :param most: most seconds of a file: it is refused if its header states more, or if it is longer.
        """
        self.source, self._whole, self._config, self._most = source, whole, config, most
        self.stated = 0.0
        """Length that the file states, in seconds, once it is opened."""
        self.samples = 0
        """Samples that were decoded so far, at 16 kHz."""
        self.is_long = False

    @property
    def seconds(self) -> float:
        """Seconds that were decoded so far."""
        return self.samples / SAMPLE_RATE

    def __iter__(self) -> Iterator[Piece]:
        """
        :raises AudioError: the file cannot be read; the pieces before a damage have been yielded by then.
        :raises UserError: the file is too long, or must be cut while the detector of speech is not installed.
        """
        blocks = self._blocks()
        beginning: list[npt.NDArray[np.float32]] = []
        for block in blocks:
            beginning.append(block)
            if self.seconds > self._whole:
                self.is_long = True
                break
        if not self.is_long:
            yield Piece(0, np.concatenate(beginning))
            return
        try:
            voice = VoiceActivity()
        except UserError as error:
            length = max(self.stated, self.seconds)
            raise UserError(
                f"{self.source.name}: found {length:.2f} s, expected at most {self._whole:g} s: longer recordings "
                f"are cut at pauses, and {error}"
            ) from None
        yield from cut(itertools.chain(_given_up(beginning), blocks), self._config, voice)

    def _blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        def tell(seconds: float) -> None:
            self.stated = seconds
            self._check(seconds)

        for block in stream_audio(self.source, tell):
            self.samples += len(block)
            # Checked while decoding, whatever the header says: a few bytes can hold days of silence.
            self._check(self.seconds)
            yield block

    def _check(self, seconds: float) -> None:
        if seconds > self._most:
            raise UserError(f"{self.source.name}: found {seconds:.0f} s or more, expected at most {self._most:g} s")


def _given_up(blocks: list[npt.NDArray[np.float32]]) -> Iterator[npt.NDArray[np.float32]]:
    """Yields the blocks and releases each one afterwards."""
    blocks.reverse()
    while blocks:
        yield blocks.pop()
