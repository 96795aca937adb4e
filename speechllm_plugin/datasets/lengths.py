"""Which clips are too short or too long for a run, and what becomes of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from speechllm_plugin.datasets.audio import SAMPLE_RATE, AudioError
from speechllm_plugin.encoders.api import too_long
from speechllm_plugin.log import log

TooLong = Literal["error", "skip", "cut"]
"""What happens to a clip that is too long: it stops the run, is left out, or is cut at its end."""


class LeftOut(AudioError):
    """A clip that a run leaves out by choice: counted, never an error."""

    def __init__(self, reason: Literal["short", "long"], line: str) -> None:
        super().__init__(line)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class LengthPolicy:
    window: float | None = None
    """The longest clip that the encoder takes, in seconds; None = any. The reader sets it."""
    min_seconds: float = 0.0
    """Shorter clips are left out."""
    max_seconds: float | None = None
    """Longer clips are too long, as are those that are longer than the window. None = only the window decides."""
    too_long: TooLong = "error"

    @property
    def longest(self) -> float | None:
        """The longest clip that is used whole, in seconds; None = any."""
        return min((value for value in (self.window, self.max_seconds) if value is not None), default=None)

    def used(self, seconds: float) -> float:
        """
        :returns: how many of a clip's seconds are used.
        :raises LeftOut: the clip is not used at all.
        :raises AudioError: the clip is too long.
        """
        if seconds < self.min_seconds:
            line = f"the audio lasts {seconds:.2f} s, less than {self.min_seconds:g} s (dataset.min_seconds)"
            raise LeftOut("short", line)
        longest = self.longest
        if longest is None or seconds <= longest:
            return seconds
        if self.too_long == "cut":
            return longest
        line = (
            too_long(seconds, longest) if longest == self.window
            else f"the audio lasts {seconds:.2f} s, expected at most {longest:g} s (dataset.max_seconds)"
        )  # fmt: skip
        if self.too_long == "skip":
            raise LeftOut("long", line)
        raise AudioError(line)

    def tell(self, left_out: Counter[str]) -> None:
        """Logs how many clips were left out, by `LeftOut.reason`."""
        if left_out:
            log.warning(
                "{:,} clips are left out: {:,} shorter than {:g} s (dataset.min_seconds), {:,} longer than {} s "
                "(dataset.too_long=skip).", left_out.total(), left_out["short"], self.min_seconds, left_out["long"],
                self.longest,
            )  # fmt: skip

    def samples(self, seconds: float) -> int | None:
        """How many samples of a clip are used; None = all."""
        used = self.used(seconds)
        return None if used == seconds else round(used * SAMPLE_RATE)
