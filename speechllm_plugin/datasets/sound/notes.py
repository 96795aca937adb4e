"""What is worth a line about a file, although it can be used: one line a kind, with a count.

A corpus may hold thousands of such files. The first is told by name, then the tenth, the hundredth and so on.
"""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)

_lock = threading.Lock()
_seen: dict[str, set[int]] = {}


def tell(kind: str, name: str, message: str) -> None:
    """
    :param kind: files of one kind are counted together, each once.
    :param name: of the file.
    :param message: goes on where "NAME: " ends.
    """
    with _lock:
        names = _seen.setdefault(kind, set())
        before = len(names)
        # A hash: the names of a million files would fill the memory.
        names.add(hash(name))
        count = len(names)
    if count > before and str(count).strip("0") == "1":
        log.warning("%s: %s%s", name, message, f" ({count:,} such files so far)" if count > 1 else "")


def forget() -> None:
    """Begins to count anew."""
    with _lock:
        _seen.clear()
