"""Sets how the threads of a process wait for each other."""

from __future__ import annotations

import os

_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables by which a user may choose."""


def wait_passively() -> None:
    """Lets threads that wait at a barrier sleep instead of spin, unless the user chose otherwise.

    PyTorch's wheels bring libgomp, whose threads spin. Beside other work they spin for a thread that is not running: 20
    CTC steps of the demo took 58 to 75 s beside one busy process, and 6 to 9 s with sleeping threads. libgomp reads the
    variable when it is loaded, so call this before importing torch.
    """
    if not any(name in os.environ for name in _CHOICES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
