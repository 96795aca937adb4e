"""Tab-separated tables: UTF-8, a header, one row a line, no quoting and no escaping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.files.columns.content import InMemory, open_content
from speechllm_plugin.files.columns.fields import Places
from speechllm_plugin.files.columns.table import Block, Look, Rows, Table, check_utf8, find_rows, scan
from speechllm_plugin.files.records import (
    BREAKS,
    Record,
    check_header,
    check_record,
    escaped_records,
    quoted_records,
)
from speechllm_plugin.files.remote import Location


def read_table(
    path: Location,
    *,
    required: Sequence[str],
    columns: Sequence[str] | None = None,
    legacy_escapes: bool = False,
    csv_quotes: bool = False,
) -> list[Record]:
    """All rows of a table.

    :raises UserError: as :func:`open_table`.
    """
    return list(
        open_table(path, required=required, columns=columns, legacy_escapes=legacy_escapes, csv_quotes=csv_quotes)
    )


def open_table(
    path: Location,
    *,
    required: Sequence[str],
    columns: Sequence[str] | None = None,
    legacy_escapes: bool = False,
    csv_quotes: bool = False,
    look: Callable[[Sequence[str]], Look] | None = None,
) -> Table:
    """Check a table whose columns are found by name, in any order; columns nobody asks for stay unread.

    A byte-order mark and CRLF line ends are accepted. Only CR, LF and tab are separators; Unicode's other line breaks
    are text.

    :param required: columns that must be there.
    :param columns: the column names of a file without a header.
    :param legacy_escapes: read the output of a writer that puts a backslash before tabs, line ends and backslashes
        (pandas with ``QUOTE_NONE, escapechar="\\\\"``). Escaped tabs and line ends become spaces.
    :param csv_quotes: read the output of Python's csv, or of pandas, as they quote by default.
    :param look: makes, from the columns' names, the function that is called with the rows block by block.
    :raises UserError: the file is missing, empty or not UTF-8; a column is missing or repeated; a row is ragged.
    """
    content = open_content(path)
    rows = find_rows(content, path)
    if legacy_escapes or csv_quotes:
        check_utf8(rows)
        text = content.read(rows.begin, rows.end).decode()
        records = quoted_records(text, path) if csv_quotes else escaped_records(text)
        names, lines, plain = _plain(records, path, columns, required)
        rows = Rows(path, InMemory(plain), 0, 0, len(plain), lines)
    else:
        names = _head(rows, columns, required)
        rows = rows if columns is not None else rows.behind_header()
    return scan(rows, names, _nothing if look is None else look(names))


def check_columns(path: Location, *, required: Sequence[str]) -> None:
    """Checks that a table without quoting exists and has these columns; its rows are not read.

    :raises UserError: as :func:`open_table`.
    """
    _head(find_rows(open_content(path), path), None, required)


def _head(rows: Rows, columns: Sequence[str] | None, required: Sequence[str]) -> list[str]:
    """The names of the columns, from the first line unless they are given."""
    names = list(columns) if columns is not None else rows.header().split("\t")
    try:
        check_header(str(rows.path) if columns is not None else f"{rows.path}, line 1", names, required)
    except UserError:
        check_utf8(rows)
        raise
    return names


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table atomically. Tabs and line ends inside fields become spaces; nothing is escaped.

    :raises UserError: the place cannot be written.
    """
    lines = ["\t".join(columns)]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"`rows` must hold {len(columns)} fields each, but one holds {len(row)}.")
        lines.append("\t".join(BREAKS.sub(" ", field) for field in row))
    write_text_atomically(path, "\n".join(lines) + "\n")


def _plain(
    records: Iterable[tuple[int, list[str]]], path: Location, columns: Sequence[str] | None, required: Sequence[str]
) -> tuple[list[str], Places, bytes]:
    """:returns: the columns' names, the line that each row begins on, and the rows as a table without quoting."""
    records = iter(records)
    if columns is None:
        line, names = next(records)
        check_header(f"{path}, line {line}", names, required)
    else:
        names = list(columns)
        check_header(str(path), names, required)
    lines, rows = [], []
    for line, fields in records:
        check_record(path, line, fields, names)
        lines.append(line)
        rows.append("\t".join(fields))
    return names, np.array(lines, dtype=np.int64), "\n".join(rows).encode()


def _nothing(block: Block) -> None:
    pass
