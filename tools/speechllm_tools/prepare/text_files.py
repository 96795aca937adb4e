"""Reads the text files of corpora line by line: UTF-8, where only LF ends a line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from operator import itemgetter
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.records import check_header

RAGGED = "line with another number of columns than the header"
"""Reason of such rows of a table, which make no rows of a manifest."""


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The number of each line, counted from 1, and its text. U+2028, U+0085, VT and FF are text; a CR before the LF is
    not.

    :raises UserError: there is no such file, or it is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path}, line {number}: found byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the "
                        "line, expected UTF-8"
                    ) from None
                if number == 1:
                    text = text.removeprefix("\ufeff")
                yield number, text.removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), expected a text file") from None


def read_tsv(
    path: Path, required: Sequence[str], names: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Rows of a tab-separated table, by column name. Quotation marks and backslashes are text. ``None`` stands for a
    row with another number of fields than the header; empty lines at the end do not count.

    :param names: the columns of a file without a header.
    :raises UserError: as `read_lines`; or a column is missing.
    """
    names, records = _records(path, required, names)
    for number, fields in records:
        yield number, None if fields is None else dict(zip(names, fields, strict=True))


def read_fields(path: Path, names: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...] | None]]:
    """`read_tsv` for some columns of a wide table, in half the time.

    :param names: two or more columns of the table.
    """
    header, records = _records(path, names, None)
    pick = itemgetter(*map(header.index, names))
    for number, fields in records:
        yield number, None if fields is None else pick(fields)


def _records(
    path: Path, required: Sequence[str], names: Sequence[str] | None
) -> tuple[Sequence[str], Iterator[tuple[int, list[str] | None]]]:
    """The columns of a table, and the fields of its rows."""
    lines = read_lines(path)
    if names is None:
        names = header_of(path, next(lines, (0, ""))[1].split("\t"), required)
    return names, _fields(lines, len(names))


def header_of(path: Path, names: list[str], required: Sequence[str]) -> list[str]:
    """
    :param names: names of all columns; columns without a name are ignored.
    :raises UserError: there are no columns, one occurs twice, or a required one is missing.
    """
    if not any(names):
        raise UserError(f"{path}: found no header in the first line, expected {', '.join(map(repr, required))}")
    check_header(f"{path}, line 1", [name for name in names if name], required)
    return names


def _fields(lines: Iterator[tuple[int, str]], count: int) -> Iterator[tuple[int, list[str] | None]]:
    empty: list[int] = []
    for number, text in lines:
        if not text:
            empty.append(number)
            continue
        yield from ((line, None) for line in empty)
        empty.clear()
        fields = text.split("\t")
        yield number, fields if len(fields) == count else None


def stem_of(path: str) -> str:
    """The name of a file without folder and ending."""
    return os.path.splitext(os.path.basename(path))[0]


def count_lines(path: Path) -> int:
    """The number of lines that `read_lines` gives."""
    return sum(1 for _ in read_lines(path))


def parse_seconds(text: str) -> Decimal | None:
    """The exact number of seconds in a text; ``None`` for words, NaN, infinity and numbers below 0."""
    try:
        seconds = Decimal(text)
    except InvalidOperation:
        return None
    return seconds if seconds.is_finite() and seconds >= 0 else None
