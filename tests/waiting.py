"""Waits that end, and say what did not happen."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST = 300.0
"""Seconds that a process or a thread may take: several times what it takes beside others on a slow machine."""


def wait_until(happens: Callable[[], object], what: str, seconds: float = LONGEST) -> None:
    """
    :param what: happens, for the error.
    """
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.01)
