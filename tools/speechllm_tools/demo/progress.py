"""A line on a terminal that says how far a job is; in a log, a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType


class ProgressLine:
    """``speaking 1200/4364 clips, 12 s``, on standard output."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._start = self._printed = time.monotonic()
        self._on_terminal = sys.stdout.isatty()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._on_terminal:
            print(flush=True)

    def update(self, done: int) -> None:
        """Tell that ``done`` of the total are there."""
        now = time.monotonic()
        # A log is not to be filled: every ten seconds, and the end.
        if not self._on_terminal and done < self._total and now - self._printed < 10:
            return
        self._printed = now
        line = f"  {self._what} {done}/{self._total} {self._unit}, {now - self._start:.0f} s"
        print(f"\r{line}" if self._on_terminal else line, end="" if self._on_terminal else "\n", flush=True)
