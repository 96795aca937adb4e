"""One row of a table, its checks, and the two ways in which other programs quote rows."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.remote import Location

BREAKS = re.compile(r"[\t\r\n]")
# A record of a writer that escapes: everything up to a line feed without a backslash before it.
_ESCAPED_RECORD = re.compile(r"((?:\\.?|[^\\\n])*)(?:\n|\Z)", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True)
class Record:
    """One row: its fields by column name, and the line it begins on (the header is line 1)."""

    line: int
    fields: Mapping[str, str]


def escaped_records(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of each row, without the backslashes; escaped tabs and line ends become spaces."""
    line = 1
    for match in _ESCAPED_RECORD.finditer(text):
        # The pattern also matches the empty text after the last record.
        if match.start() == len(text):
            break
        plain = _ESCAPE.sub(lambda escape: " " if escape[1] in "\t\r\n" else escape[1], match[1])
        yield line, plain.removesuffix("\r").split("\t")
        line += match[0].count("\n")


def quoted_records(text: str, path: Location) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of each row, without the quotation marks around them; tabs and line ends become spaces.

    :raises UserError: a field is quoted wrongly.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    line = 1
    try:
        for fields in reader:
            yield line, [BREAKS.sub(" ", field) for field in fields] or [""]
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: found a field that is quoted wrongly ({error}), expected quotation marks around it "
            "and doubled ones in it"
        ) from None


def check_header(where: str, names: Sequence[str], required: Sequence[str]) -> None:
    """:raises UserError: a column is repeated, or a required one missing."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{where}: found column {repeated[0]!r} more than once, expected each column once")
    missing = [name for name in required if name not in names]
    if missing:
        raise UserError(
            f"{where}: found columns {', '.join(map(repr, names))}, expected also {', '.join(map(repr, missing))}"
        )


def check_record(path: Location, line: int, fields: Sequence[str], names: Sequence[str]) -> None:
    """:raises UserError: the fields do not make a row."""
    where = f"{path}, line {line}"
    if list(fields) == [""] and len(names) > 1:
        raise UserError(f"{where}: found an empty line, expected {len(names)} tab-separated fields")
    if len(fields) != len(names):
        raise UserError(
            f"{where}: found {len(fields)} tab-separated fields, expected {len(names)} ({', '.join(names)})"
            f"{_hint(fields)}"
        )
    if any("\r" in field for field in fields):
        raise UserError(f"{where}: found a carriage return inside the line, expected line ends LF or CRLF")


def _hint(fields: Sequence[str]) -> str:
    """A likely cause of a row with too many or too few fields."""
    if any(field.endswith("\\") for field in fields):
        return "; with `legacy_escapes` a backslash makes the tab or line end behind it part of a field"
    if any(field.startswith('"') and field.count('"') % 2 for field in fields):
        return "; with `csv_quotes` tabs and line ends between quotation marks are part of a field"
    return ""
