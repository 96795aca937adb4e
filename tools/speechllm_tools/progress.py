"""Shows the progress of a job and its remaining time: a line on a terminal, or a line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO


class ProgressLine:
    """``speaking 1200/4364 clips, 12 s, about 31 s left``."""

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        """
        :param stream: None = standard output.
        """
        self._what, self._stream = what, stream
        self._start = self._printed = time.monotonic()
        self._first: float | None = None
        self._on_terminal = (stream or sys.stdout).isatty()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._on_terminal:
            print(file=self._stream, flush=True)

    def update(self, state: str, share: float) -> None:
        """
        :param state: the progress in the job's own words.
        :param share: share of the job's time that has passed, 0 to 1. The share of the first call counts as done
            before.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = share
        # A log gets a line every ten seconds, and one at the end.
        if not self._on_terminal and share < 1 and now - self._printed < 10:
            return
        self._printed = now
        line = f"  {' '.join(filter(None, (self._what, state)))}, {duration(now - self._start)}"
        if self._first < share < 1:
            line += f", about {duration((now - self._start) * (1 - share) / (share - self._first))} left"
        text, end = (f"\r{line}\033[K", "") if self._on_terminal else (line, "\n")
        print(text, end=end, file=self._stream, flush=True)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
