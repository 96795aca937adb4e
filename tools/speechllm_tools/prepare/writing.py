"""What a full disk or a closed folder looks like to the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechllm_plugin.errors import UserError


@contextmanager
def told(place: Path) -> Iterator[None]:
    """
    :raises UserError: for a disk that is full, or a place that cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror}), expected a writable place") from None
