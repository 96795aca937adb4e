"""One channel out of many: their mean, or one of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from speechllm_plugin.datasets.sound.api import Block, SoundError

# Mean square of a channel that is not silent; and share of it (-60 dB) that the mean of cancelling channels stays
# below.
_SOUNDING = 1e-6
_CANCELLED = 1e-6
# Microphones a metre apart record one voice with a correlation well above this; two ends of a telephone line do not.
_ALIKE = 0.2
_MOST_COMPARED = 8


class Mixer:
    def __init__(self, channels: int, channel: int | None) -> None:
        """
        :param channel: counted from 1; `None` = the mean of all.
        :raises SoundError: there is no such channel.
        """
        if channel is not None and not 1 <= channel <= channels:
            raise SoundError(f"found {channels} channel(s), expected at least {channel} for channel {channel}")
        self._channels, self._channel = channels, channel
        compared = min(channels, _MOST_COMPARED)
        self._products = np.zeros((compared, compared))
        self._power = self._power_of_mean = 0.0
        self._count = 0

    def mix(self, block: Block) -> npt.NDArray[np.float32]:
        """`[n, channels]` -> `[n]`, valid as long as `block`."""
        if self._channels == 1:
            return block[:, 0]
        if self._channel is not None:
            return block[:, self._channel - 1]
        # (N, C) -> (N). Columns are added one by one: numpy's mean over so short an axis takes several times as long.
        mean = block[:, 0] + block[:, 1]
        for column in range(2, self._channels):
            mean += block[:, column]
        mean *= np.float32(1 / self._channels)
        compared = block[:, : len(self._products)]
        with np.errstate(invalid="ignore", over="ignore"):
            self._products += compared.T @ compared
            self._power += float(np.vdot(block, block)) / self._channels
            self._power_of_mean += float(np.vdot(mean, mean))
        self._count += len(block)
        return mean

    def check(self) -> None:
        """
        :raises SoundError: the channels cancel each other.
        """
        if self._power > _SOUNDING * self._count and self._power_of_mean < _CANCELLED * self._power:
            raise SoundError(
                f"found {self._channels} channels that cancel each other, so that their mean is silence, expected "
                "channels in phase; take one of them: column `channel` of a manifest, `--channel` of transcribe"
            )

    def difference(self) -> str | None:
        """The note for channels that hold different sound; `None` where they are alike."""
        power = np.diag(self._products)
        sounding = np.flatnonzero(power > _SOUNDING * max(self._count, 1))
        if self._channel is not None or len(sounding) < 2:
            return None
        among = self._products[np.ix_(sounding, sounding)] / np.sqrt(np.outer(power[sounding], power[sounding]))
        least = float(among.min())
        if not least < _ALIKE:
            return None
        return (
            f"{self._channels} channels of different sound (correlation {least:.2f}) were mixed to one by their mean; "
            "where each holds a speaker, take one: column `channel` of a manifest, `--channel` of transcribe"
        )
