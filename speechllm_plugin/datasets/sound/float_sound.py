"""Files of floating point numbers, which some tools write in units of integers: 32768 is full scale, not 1."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from speechllm_plugin.datasets.sound.api import Block, SoundError
from speechllm_plugin.datasets.sound.libsndfile import SndfileSound
from speechllm_plugin.datasets.sound.notes import tell
from speechllm_plugin.datasets.sound.remembered import Remembered

SUBTYPES = frozenset({"FLOAT", "DOUBLE"})
"""libsndfile's names for samples that are floating point numbers."""
LOUDEST = 10.0
"""Numbers may go beyond full scale (1) a little; speech in units of integers reaches hundreds."""

_BITS = (16, 24, 32)
_OVERSHOOT = 2.0
"""Factor by which resampled speech may exceed the largest integer."""

_peaks: Remembered[float] = Remembered()


class FloatSound:
    """See `Sound`. The peak of the whole file decides its unit, so that all its segments have the same."""

    def __init__(self, file: SndfileSound, name: str, key: str, *, may_scale: bool) -> None:
        """
        :param name: what the user calls the file, for notes.
        :param key: a key that changes with the file.
        :param may_scale: False = a file in units of integers is an error.
        """
        self._file, self._name, self._key = file, name, key
        self.format, self.rate, self.channels = file.format, file.rate, file.channels
        self.frames, self.slack, self.is_estimate = file.frames, file.slack, file.is_estimate
        self._may_scale = may_scale

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        peak = _peaks.get((self._key, self.frames), self._peak)
        scale = self._scale(peak) if np.isfinite(peak) and peak > LOUDEST else None
        for block in self._file.blocks(start, length):
            yield block if scale is None else block * np.float32(scale)

    def close(self) -> None:
        self._file.close()

    def _peak(self) -> float:
        """The largest magnitude; infinite where a sample is no finite number."""
        file, peak = self._file.again(), 0.0
        try:
            for block in file.blocks(0, file.frames):
                peak = max(peak, float(np.abs(block).max()))
                if not np.isfinite(peak):
                    return np.inf
        finally:
            file.close()
        return peak

    def _scale(self, peak: float) -> float:
        """
        :raises SoundError: no unit fits, or a file like this is an error.
        """
        bits = next((bits for bits in _BITS if peak <= _OVERSHOOT * 2 ** (bits - 1)), None)
        if bits is None:
            raise SoundError(f"found samples up to {peak:.6g}, expected them within 1, full scale")
        units = f"found samples up to {peak:.6g}, as in units of {bits}-bit integers"
        if not self._may_scale:
            raise SoundError(
                f"{units}, expected them within 1, full scale; dataset.config_overrides.float_units=scale divides them "
                f"by {2 ** (bits - 1)}"
            )
        tell("float units", self._name, f"{units}: they were divided by {2 ** (bits - 1)}")
        return 1 / 2 ** (bits - 1)
