"""Computes properties of all fields of a column at once, from their bytes.

A column is an array of bytes (`uint8`, followed by `PADDING` zeros) and the places in it where its fields begin and
end, `int64 [rows]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]

PADDING = 8
"""Zeros that follow the bytes, so that eight bytes can be read from each place."""
MOST_DIGITS = 18
"""Most digits of a number that `int64` is sure to hold."""
MOST_WHOLE = 1_000_000_000
"""Above the number whose millionths are told."""

_ODD, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


def array_of(data: bytes) -> Bytes:
    return np.frombuffer(data + bytes(PADDING), dtype=np.uint8)


def hashes(data: Bytes, begins: Places, ends: Places) -> Hashes:
    """A hash of 64 bits for each field, the same on every machine."""
    words = np.ndarray((len(data) - PADDING + 1,), dtype="<u8", buffer=data, strides=(1,))
    lengths = ends - begins
    found = lengths.astype(np.uint64) * _ODD
    rows = np.flatnonzero(lengths > 0)
    offset = 0
    while len(rows):
        word = words[begins[rows] + offset]
        left = np.minimum(lengths[rows] - offset, 8).astype(np.uint64)
        word &= np.uint64(0xFFFFFFFFFFFFFFFF) >> (np.uint64(64) - np.uint64(8) * left)
        found[rows] = mixed(found[rows] ^ word)
        offset += 8
        rows = rows[lengths[rows] > offset]
    return found


def mixed(values: Hashes) -> Hashes:
    """Mixes each number, so that each bit of the result depends on all of its bits (splitmix64)."""
    values = values + _ODD
    values ^= values >> np.uint64(30)
    values *= _MIX
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def numbers(data: Bytes, begins: Places, ends: Places) -> tuple[Places, Flags]:
    """
    :returns: the number in each field, and which fields are numbers: 1 to `MOST_DIGITS` ASCII digits.
    """
    lengths = ends - begins
    is_number = (lengths > 0) & (lengths <= MOST_DIGITS)
    values = np.zeros(len(begins), dtype=np.int64)
    for place in range(int(lengths[is_number].max(initial=0))):
        rows = np.flatnonzero(is_number & (lengths > place))
        digits = data[begins[rows] + place] - np.uint8(ord("0"))
        is_number[rows[digits > 9]] = False
        values[rows] = values[rows] * 10 + digits
    values[~is_number] = 0
    return values, is_number


def millionths(data: Bytes, begins: Places, ends: Places) -> tuple[Places, Flags]:
    """
    :returns: millionths of the number in each field, rounded, and which fields are numbers: as for `numbers`, or with a
        dot and at most `MOST_DIGITS` more digits.
    """
    dots = np.append(np.flatnonzero(data == ord(".")), len(data))
    dot = np.minimum(dots[np.searchsorted(dots, begins)], ends)
    whole, is_whole = numbers(data, begins, dot)
    behind = np.minimum(dot + 1, ends)
    fraction, is_fraction = numbers(data, behind, ends)
    is_number = is_whole & (is_fraction | (dot == ends)) & (whole < MOST_WHOLE)
    millionth = np.rint(fraction * 10.0 ** (6 - (ends - behind).clip(max=MOST_DIGITS))).astype(np.int64)
    return np.where(is_number, whole * 1_000_000 + millionth, 0), is_number


def may_be_blank(data: Bytes, begins: Places, ends: Places) -> Flags:
    """Which fields are empty or may consist of white space."""
    is_first, is_last = _white_space()
    # For an empty field, both bytes belong to separators.
    return (ends == begins) | (is_first[data[begins]] & is_last[data[ends - 1]])


@cache
def _white_space() -> tuple[Flags, Flags]:
    """The first bytes of white space in UTF-8, and the last ones."""
    is_first, is_last = np.zeros(256, dtype=bool), np.zeros(256, dtype=bool)
    for point in range(0x3001):
        if chr(point).isspace():
            encoded = chr(point).encode()
            is_first[encoded[0]] = is_last[encoded[-1]] = True
    return is_first, is_last


def rows_with(places: Places, begins: Places, ends: Places) -> Places:
    """The rows, in order, whose fields contain any of the places.

    :param places: places in a column's bytes.
    """
    rows = np.searchsorted(begins, places, side="right") - 1
    return distinct(rows[(rows >= 0) & (places < ends[rows])])


def distinct(rows: Places) -> Places:
    """The distinct rows, in order. (`numpy.unique` takes milliseconds even for none.)"""
    rows = np.sort(rows)
    return rows[np.diff(rows, prepend=-1) != 0]


def is_among(values: Hashes, others: Hashes) -> Flags:
    """Which values are among the others. (`numpy.isin` takes three times as long for millions.)"""
    if not len(others):
        return np.zeros(len(values), dtype=bool)
    order, others = np.argsort(values), np.sort(others)
    in_order = values[order]
    places = np.searchsorted(others, in_order).clip(max=len(others) - 1)
    found = np.empty(len(values), dtype=bool)
    found[order] = others[places] == in_order
    return found


def joined(names: Sequence[bytes]) -> tuple[Bytes, Places, Places]:
    """A column of these fields."""
    lengths = np.fromiter(map(len, names), dtype=np.int64, count=len(names))
    ends = np.cumsum(lengths)
    return array_of(b"".join(names)), ends - lengths, ends
