"""Ends a run that a signal stopped with the signal's status, after it has saved, as SLURM and shells expect."""

from __future__ import annotations

import signal
import sys

_received: list[int] = []


def remember_to_die(number: int) -> None:
    """:param number: the signal that ends the process after saving."""
    _received.append(number)


def die_as_told() -> None:
    """Ends the process by the remembered signal, if any: status 143 for SIGTERM tells a scheduler that the run is not
    finished."""
    if _received:
        sys.stdout.flush()
        sys.stderr.flush()
        signal.signal(_received[0], signal.SIG_DFL)
        signal.raise_signal(_received[0])
