"""A tab-separated table without an object for each row: the places of its rows, whose text is read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.columns.content import Content, InMemory
from speechllm_plugin.files.columns.fields import Bytes, Places, array_of
from speechllm_plugin.files.records import Record, check_record
from speechllm_plugin.files.remote import Location

_BLOCK = 1 << 22
"""Bytes that are processed together."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TAB, _LINE_FEED, _CARRIAGE_RETURN = 9, 10, 13


@dataclass(frozen=True)
class Rows:
    """The places of a table's rows."""

    path: Location
    content: Content
    begin: int
    """Where the text begins, as a place in the content."""
    first: int
    """Where the first row begins."""
    end: int
    """Where the last row ends, without its line end."""
    lines: Places | int = 1
    """Line of the file on which each row begins, `[rows]`; or that of the first row, where each row is one line."""

    def line(self, row: int) -> int:
        return self.lines + row if isinstance(self.lines, int) else int(self.lines[row])

    def header(self) -> str:
        """The first line.

        :raises UserError: it is not UTF-8.
        """
        line = self.content.read(self.first, self._header_end()).removesuffix(b"\r")
        _check_text(line, self, self.first)
        return line.decode()

    def behind_header(self) -> Rows:
        return replace(self, first=self._header_end() + 1, lines=2)

    def _header_end(self) -> int:
        start, block = next(_lines(self.content, self.first, self.end))
        return start + len(block.partition(b"\n")[0])


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a table."""

    rows: Rows
    """The rows of the whole table."""
    first: int
    """Number of the block's first row."""
    data: Bytes
    begins: Places
    """Where fields begin, `[rows, columns]`, as places in `data`."""
    ends: Places

    def text(self, row: int, column: int) -> str:
        return self.data[self.begins[row, column] : self.ends[row, column]].tobytes().decode()

    def line(self, row: int) -> int:
        """Of the file."""
        return self.rows.line(self.first + row)


Look = Callable[[Block], None]


class Table(Sequence[Record]):
    """Rows that have been checked: they are UTF-8, have a field for each column, and hold no carriage return."""

    def __init__(self, rows: Rows, columns: Sequence[str], starts: Places) -> None:
        """
        :param starts: where the rows begin, and one past the end of the last one.
        """
        self.columns = list(columns)
        self._rows, self._starts = rows, starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        return self._record(row, self._line(row))

    def __iter__(self) -> Iterator[Record]:
        for first, _, data in self._blocks():
            for row, line in enumerate(data.split(b"\n"), start=first):
                yield self._record(row, line)

    def fields_of(self, columns: Sequence[str], rows: Places) -> Iterator[list[bytes]]:
        """The fields of some columns, each followed by a line feed, in blocks of rows. The fields of a missing column
        are empty.

        :param rows: numbers of the rows, in rising order.
        """
        numbers = [self.columns.index(name) if name in self.columns else None for name in columns]
        is_chosen = np.zeros(len(self), dtype=bool)
        is_chosen[rows] = True
        for first, stop, text in self._blocks():
            data = array_of(text + b"\n").copy()
            starts = self._starts[first : stop + 1] - self._starts[first]
            block = _block_of(self._rows, first, data, starts[:-1], starts[1:] - 1, len(self.columns))
            begins, ends = (places[is_chosen[first:stop]] for places in (block.begins, block.ends))
            data[ends] = _LINE_FEED
            yield [
                b"\n" * len(begins) if number is None else _joined(data, begins[:, number], ends[:, number])
                for number in numbers
            ]

    def _blocks(self) -> Iterator[tuple[int, int, bytes]]:
        """Blocks of rows: the number of the first row, one past that of the last, and their text."""
        row = 0
        while row < len(self):
            start = int(self._starts[row])
            stop = max(row + 1, int(np.searchsorted(self._starts, start + _BLOCK)) - 1)
            yield row, stop, self._rows.content.read(start, int(self._starts[stop]) - 1)
            row = stop

    def line(self, row: int) -> int:
        """The line of the file on which a row begins."""
        return self._rows.line(row)

    def take(self, rows: Places) -> Table:
        """A table of only these rows, in memory."""
        lines = [self._line(row) for row in rows.tolist()]
        ends = np.cumsum([len(line) + 1 for line in lines])
        content = InMemory(b"\n".join(lines))
        numbers = np.array([self.line(row) for row in rows.tolist()])
        alone = Rows(self._rows.path, content, 0, 0, content.size, numbers)
        return Table(alone, self.columns, np.concatenate([[0], ends]))

    def _line(self, row: int) -> bytes:
        return self._rows.content.read(int(self._starts[row]), int(self._starts[row + 1]) - 1)

    def _record(self, row: int, line: bytes) -> Record:
        fields = line.decode().removesuffix("\r").split("\t")
        return Record(self.line(row), dict(zip(self.columns, fields, strict=True)))


def find_rows(content: Content, path: Location) -> Rows:
    """All lines of a file, without a byte-order mark before them and empty lines after them.

    :raises UserError: there are no lines.
    """
    begin = len(_BYTE_ORDER_MARK) if content.read(0, len(_BYTE_ORDER_MARK)) == _BYTE_ORDER_MARK else 0
    end = content.size
    while end > begin:
        block = content.read(max(begin, end - _BLOCK), end)
        kept = block.rstrip(b"\r\n")
        end -= len(block) - len(kept)
        if kept:
            return Rows(path, content, begin, begin, end)
    raise UserError(f"{path}: found an empty file, expected a header line and rows")


def check_utf8(rows: Rows) -> None:
    """:raises UserError: the text is not UTF-8; names the line and the place in it."""
    for start, block in _lines(rows.content, rows.begin, rows.end):
        _check_text(block, rows, start)


def scan(rows: Rows, columns: Sequence[str], look: Look) -> Table:
    """Goes through the rows once.

    :param look: is called with all rows, block by block, up to the first row that does not fit the table.
    :raises UserError: the text is not UTF-8, or a row does not fit; the first such row is named.
    """
    starts: list[Places] = []
    number, wrong = 0, None
    for start, block in _lines(rows.content, rows.first, rows.end):
        # The encoding of the whole file is checked first, since rows of another encoding cannot be told apart.
        _check_text(block, rows, start)
        if wrong is not None:
            continue
        data = array_of(block + b"\n")
        ends = np.flatnonzero(data == _LINE_FEED)
        begins = np.concatenate([[0], ends[:-1] + 1])
        if (found := _wrong_row(data, ends, len(columns))) is not None:
            wrong = number + found, block[begins[found] : ends[found]]
            continue
        starts.append(begins + start)
        look(_block_of(rows, number, data, begins, ends, len(columns)))
        number += len(begins)
    if wrong is not None:
        check_record(rows.path, rows.line(wrong[0]), wrong[1].decode().removesuffix("\r").split("\t"), columns)
    return Table(rows, columns, np.concatenate([*starts, [rows.end + 1]]).astype(np.int64))


def _lines(content: Content, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines, each without its last line end, with the places where they begin."""
    size = _BLOCK
    while begin < end:
        block = content.read(begin, min(begin + size, end))
        if begin + len(block) < end:
            cut = block.rfind(b"\n")
            if cut < 0:
                size *= 2
                continue
            block = block[:cut]
        yield begin, block
        begin += len(block) + 1
        size = _BLOCK


def _check_text(block: bytes, rows: Rows, start: int) -> None:
    """:raises UserError: these bytes of the table are not UTF-8."""
    if block.isascii():
        return
    try:
        block.decode()
    except UnicodeDecodeError as error:
        before = rows.content.read(rows.begin, start) + block[: error.start]
        line, position = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        raise UserError(
            f"{rows.path}, line {line}: found byte 0x{block[error.start]:02x} at byte {position} of the line, expected "
            "UTF-8"
        ) from None


def _wrong_row(data: Bytes, ends: Places, columns: int) -> int | None:
    """The first row with another number of fields, or with a carriage return before its end."""
    tabs = np.flatnonzero(data == _TAB)
    wrong = 1 + np.diff(np.searchsorted(tabs, ends), prepend=0) != columns
    returns = np.flatnonzero(data == _CARRIAGE_RETURN)
    stray = returns[data[returns + 1] != _LINE_FEED]
    wrong[np.searchsorted(ends, stray)] = True
    found = np.flatnonzero(wrong)
    return int(found[0]) if len(found) else None


def _block_of(rows: Rows, first: int, data: Bytes, row_begins: Places, row_ends: Places, columns: int) -> Block:
    tabs = np.flatnonzero(data == _TAB).reshape(len(row_begins), columns - 1)
    row_ends = row_ends - ((data[row_ends - 1] == _CARRIAGE_RETURN) & (row_ends > row_begins))
    begins = np.concatenate([row_begins[:, None], tabs + 1], axis=1)
    return Block(rows, first, data, begins, np.concatenate([tabs, row_ends[:, None]], axis=1))


def _joined(data: Bytes, begins: Places, ends: Places) -> bytes:
    """The fields joined, each with the byte after it."""
    borders = np.zeros(len(data), dtype=np.int8)
    borders[begins] += 1
    borders[ends + 1] -= 1
    return data[np.cumsum(borders, dtype=np.int8).view(np.bool_)].tobytes()
