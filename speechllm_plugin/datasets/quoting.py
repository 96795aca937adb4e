"""Whether the writer of a manifest quoted its quotation marks: a guess, which is reported while nothing is undone."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from speechllm_plugin.files.columns.fields import PADDING, Bytes, Places
from speechllm_plugin.files.remote import Location

log = logging.getLogger(__name__)


@dataclass
class Quoted:
    """Rows whose texts have quotation marks as one kind of writer quotes them."""

    found: str
    key: str
    """The configuration key that undoes this quoting."""
    writer: str
    rows: int = field(default=0, init=False)
    line: int = field(default=0, init=False)
    """Line of the first such row."""

    def count(self, line: int) -> None:
        self.line = self.line or line
        self.rows += 1

    def tell(self, path: Location, rows: int) -> None:
        if self.rows:
            log.warning(
                "%s: found %s for a quotation mark in the texts of %d of %d rows, first in line %d; "
                "dataset.config_overrides.%s=true reads manifests written %s",
                path, self.found, self.rows, rows, self.line, self.key, self.writer,
            )  # fmt: skip


class Quoting:
    def __init__(self, *, legacy_escapes: bool, csv_quotes: bool) -> None:
        """The options are those with which the manifest is read."""
        self._escaped = None if legacy_escapes else Quoted(
            '\\"', "legacy_escapes", "by pandas, with a backslash before each"
        )  # fmt: skip
        self._doubled = None if csv_quotes else Quoted('""', "csv_quotes", "by Python's csv, with each doubled")

    def look(self, line: int, texts: list[str]) -> None:
        """:param texts: the texts of a row; a row without any place in `quotes` need not be looked at."""
        if self._escaped is not None and any(map(_is_escaped, texts)):
            self._escaped.count(line)
        if self._doubled is not None and any(map(_is_doubled, texts)):
            self._doubled.count(line)

    def tell(self, path: Location, rows: int) -> None:
        for quoted in (self._escaped, self._doubled):
            if quoted is not None:
                quoted.tell(path, rows)


def quotes(data: Bytes) -> Places:
    """Places of the byte pairs that make a quoted quotation mark.

    :param data: see `fields`.
    """
    places = np.flatnonzero(data[:-PADDING] == ord('"'))
    # The first byte has no byte before it, and wraps around to the last one: at worst one row too many is looked at.
    return places[(data[places - 1] == ord("\\")) | (data[places + 1] == ord('"'))]


def _is_escaped(text: str) -> bool:
    return '\\"' in text


def _is_doubled(text: str) -> bool:
    inside = text[1:-1]
    return text[:1] == text[-1:] == '"' and '""' in inside and '"' not in inside.replace('""', "")
