"""The log of the whole package, without fairseq2."""

from __future__ import annotations

import logging

NAME = "fairseq2.speech_llm"
"""A child of fairseq2's logger: in a run, lines go to the files and the console that fairseq2 sets up."""


class Log:
    """Messages in the style of `str.format`, which is applied only to what is written."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger

    def info(self, message: str, *args: object) -> None:
        self._log(logging.INFO, message, args)

    def warning(self, message: str, *args: object) -> None:
        self._log(logging.WARNING, message, args)

    def error(self, message: str, *args: object) -> None:
        self._log(logging.ERROR, message, args)

    def _log(self, level: int, message: str, args: tuple[object, ...]) -> None:
        if self.logger.isEnabledFor(level):
            # rich's handler, which fairseq2 uses, colours numbers and paths unless told not to.
            self.logger.log(level, message.format(*args) if args else message, extra={"highlighter": None})


log = Log(logging.getLogger(NAME))

_EACH = 5


def is_told(number: int) -> bool:
    """Whether to log the line of this number, counted from 1, where there may be many: the first few are logged, then
    those at 10, 20, 50, 100, 200 and so on, which tell how many there are."""
    return number <= _EACH or str(number).rstrip("0") in ("1", "2", "5")
