"""Notes about files that can be used in spite of something odd: one line for each kind, with a count.

A corpus may hold thousands of such files. The first is named, then the tenth, the hundredth and so on.
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
    :param name: name of the file.
    :param message: the text after "NAME: ".
    """
    with _lock:
        names = _seen.setdefault(kind, set())
        before = len(names)
        # Hashes are kept, since the names of a million files would fill the memory.
        names.add(hash(name))
        count = len(names)
    if count > before and str(count).strip("0") == "1":
        log.warning("%s: %s%s", name, message, f" ({count:,} such files so far)" if count > 1 else "")


def forget() -> None:
    """Forgets all counts."""
    with _lock:
        _seen.clear()
