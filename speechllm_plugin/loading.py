"""Modules that register what they have when they are imported: all loaded, once, when first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Once:
    """A function that imports modules, which is run once; whoever asks meanwhile waits until all of them are there.

    It holds no lock: each import does, of its module. A thread that imports a module which asks here would wait for
    our lock with its module's, and a thread in here for its module's with ours, for ever.
    """

    def __init__(self, load: Callable[[], None]) -> None:
        self._load = load
        self._is_done = False
        self._thread = threading.local()

    def __call__(self) -> None:
        # A module that asks while it is loaded gets what is there.
        if self._is_done or getattr(self._thread, "is_loading", False):
            return
        self._thread.is_loading = True
        try:
            self._load()
        finally:
            self._thread.is_loading = False
        self._is_done = True
