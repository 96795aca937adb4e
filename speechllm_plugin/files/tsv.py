"""Tab-separated tables: UTF-8, a header, one row a line, no quoting and no escaping."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically

_BREAKS = re.compile(r"[\t\r\n]")
# A record of an escaping writer: everything up to a line feed that no backslash precedes.
_ESCAPED_RECORD = re.compile(r"((?:\\.?|[^\\\n])*)(?:\n|\Z)", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True)
class Record:
    """One row: its fields by column name, and the line it begins on (the header is line 1)."""

    line: int
    fields: Mapping[str, str]


def read_table(
    path: Path,
    *,
    required: Sequence[str],
    columns: Sequence[str] | None = None,
    legacy_escapes: bool = False,
    csv_quotes: bool = False,
) -> list[Record]:
    """Read a table whose columns are found by name, in any order; columns nobody asks for stay unread.

    A byte-order mark and CRLF line ends are tolerated. Only CR, LF and tab separate anything: other Unicode line
    breaks are text.

    :param required: columns that must be there.
    :param columns: the column names of a file without a header.
    :param legacy_escapes: read the output of a writer that puts a backslash before tabs, line ends and backslashes
        (pandas with ``QUOTE_NONE, escapechar="\\\\"``). Escaped tabs and line ends become spaces.
    :raises UserError: the file is missing, empty or not UTF-8; a column is missing or repeated; a row is ragged.
    """
    text = _read_text(path)
    if csv_quotes:
        records = _quoted_records(text, path)
    else:
        records = _escaped_records(text) if legacy_escapes else _plain_records(text)
    if columns is None:
        header_line, names = next(records)
        where = f"{path}, line {header_line}"
    else:
        names = list(columns)
        where = str(path)
    _check_header(where, names, required)

    rows = []
    for line, fields in records:
        if fields == [""] and len(names) > 1:
            raise UserError(f"{path}, line {line}: found an empty line, expected {len(names)} tab-separated fields")
        if len(fields) != len(names):
            raise UserError(
                f"{path}, line {line}: found {len(fields)} tab-separated fields, expected {len(names)} "
                f"({', '.join(names)}){_hint(fields)}"
            )
        for field in fields:
            if "\r" in field:
                raise UserError(
                    f"{path}, line {line}: found a carriage return inside the line, expected line ends LF or CRLF"
                )
        rows.append(Record(line, dict(zip(names, fields, strict=True))))
    return rows


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table atomically. Tabs and line ends inside fields become spaces; nothing is escaped.

    :raises UserError: the place cannot be written.
    """
    lines = ["\t".join(columns)]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"`rows` must hold {len(columns)} fields each, but one holds {len(row)}.")
        lines.append("\t".join(_BREAKS.sub(" ", field) for field in row))
    write_text_atomically(path, "\n".join(lines) + "\n")


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: found no such file, expected a TSV file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), expected a readable TSV file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # `error.object` lacks the byte-order mark that the codec removed; so does `error.start`.
        before = error.object[: error.start]
        line = before.count(b"\n") + 1
        position = error.start - (before.rfind(b"\n") + 1) + 1
        raise UserError(
            f"{path}, line {line}: found byte 0x{error.object[error.start]:02x} at byte {position} of the line, "
            "expected UTF-8"
        ) from None
    text = text.rstrip("\r\n")
    if not text:
        raise UserError(f"{path}: found an empty file, expected a header line and rows")
    return text


def _plain_records(text: str) -> Iterator[tuple[int, list[str]]]:
    for line, record in enumerate(text.split("\n"), start=1):
        yield line, record.removesuffix("\r").split("\t")


def _escaped_records(text: str) -> Iterator[tuple[int, list[str]]]:
    line = 1
    for match in _ESCAPED_RECORD.finditer(text):
        # The pattern also matches the nothing that follows the last record.
        if match.start() == len(text):
            break
        plain = _ESCAPE.sub(lambda escape: " " if escape[1] in "\t\r\n" else escape[1], match[1])
        yield line, plain.removesuffix("\r").split("\t")
        line += match[0].count("\n")


def _quoted_records(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    line = 1
    try:
        for fields in reader:
            yield line, [_BREAKS.sub(" ", field) for field in fields] or [""]
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: found a field that is quoted wrongly ({error}), expected quotation marks around it "
            "and doubled ones in it"
        ) from None


def _hint(fields: Sequence[str]) -> str:
    """What a row with too many or too few fields may come from."""
    if any(field.endswith("\\") for field in fields):
        return "; with `legacy_escapes` a backslash makes the tab or line end behind it part of a field"
    if any(field.startswith('"') and field.count('"') % 2 for field in fields):
        return "; with `csv_quotes` tabs and line ends between quotation marks are part of a field"
    return ""


def _check_header(where: str, names: Sequence[str], required: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{where}: found column {repeated[0]!r} more than once, expected each column once")
    missing = [name for name in required if name not in names]
    if missing:
        raise UserError(
            f"{where}: found columns {', '.join(map(repr, names))}, expected also {', '.join(map(repr, missing))}"
        )
