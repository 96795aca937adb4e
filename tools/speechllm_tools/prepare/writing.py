"""Turns errors of a full disk or a protected folder into errors for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechllm_plugin.errors import UserError


@contextmanager
def told(place: Path) -> Iterator[None]:
    """
    :raises UserError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror}), expected a writable place") from None
