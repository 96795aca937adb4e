"""Finds and reports the marks in texts of corpora that are not words, and removes them if asked to.

Anything that may be a word or a sign of a language stays: the joiners of Persian and of Indian scripts, and round
brackets around anything but the names of noises.
"""

from __future__ import annotations

import html
import logging
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from speechllm_plugin.files.columns.fields import PADDING, Bytes, Flags, Places
from speechllm_plugin.files.remote import Location

CleanText = Literal["none", "entities", "marks", "all"]

log = logging.getLogger(__name__)

_KEY = "dataset.config_overrides.clean_text"
_SHOWN = 60


@dataclass(frozen=True)
class _Kind:
    name: str
    """The name of the kind in messages."""
    modes: tuple[CleanText, ...]
    """Values of `clean_text` that remove marks of this kind; messages advise the first."""
    pattern: re.Pattern[str]
    replace: Callable[[re.Match[str]], str]


def _nothing(match: re.Match[str]) -> str:
    return ""


def _blank(match: re.Match[str]) -> str:
    return " " if match.start() > 0 and match.end() < len(match.string) else ""


def _said(match: re.Match[str]) -> str:
    """Keeps the word in Switchboard's `[laughter-yeah]`."""
    return f" {match['said'] or ''} "


# Subtitles of talks (TED, and so MuST-C) put noises in round brackets, in the language of the text.
_NOISES = (
    "laughter|laughs|laughing|applause|cheers|cheering|music|singing|noise|silence|inaudible|unintelligible|crosstalk|"
    "gelächter|lachen|applaus|beifall|musik|rires?|applaudissements|musique|risas?|aplausos|música|risate|applausi|"
    "musica|risos|gelach|muziek|смех|аплодисменты|музыка"
)


# In the order of removal: an entity may be the bracket of a mark, and a removal leaves spaces.
_KINDS = (
    _Kind(
        "entities of HTML", ("entities", "all"),
        re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});"),
        lambda match: html.unescape(match[0]),
    ),
    _Kind(
        "marks of noises", ("marks", "all"),
        re.compile(
            r"\[laughter-(?P<said>[^\[\]]+)\]|\[[^\[\]]*\]|<[^<>\s]{1,30}>|\{[^{}]*\}|\(%[^()]*\)|"
            rf"\((?i:{_NOISES})\)|(?<!\S)%[A-Za-z]{{2,}}(?!\S)"
        ),
        _said,
    ),
    _Kind(
        "labels of speakers", ("marks", "all"),
        re.compile(r"^\s*(?:[A-Z][A-Z0-9_]{0,20}|[Ss]peaker[ _]?[A-Z0-9]{1,3}):(?=\s)"), _nothing,
    ),
    _Kind("fragments of words", ("marks", "all"), re.compile(r"(?<![\w-])\w+-(?=\s|$)"), _nothing),
    _Kind(
        "invisible characters", ("marks", "all"),
        re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"), _nothing,
    ),
    _Kind("superfluous blanks", ("all",), re.compile(r"^\s+|\s+$|\s{2,}"), _blank),
)  # fmt: skip


def clean(text: str, mode: CleanText) -> str:
    """Removes the marks that `mode` names, and the spaces that this leaves."""
    if mode == "none":
        return text
    cleaned = text
    for kind in _KINDS:
        # Repeated, since entities may be escaped twice and brackets may stand in brackets.
        while mode in kind.modes and (less := kind.pattern.sub(kind.replace, cleaned)) != cleaned:
            cleaned = less
    return text if cleaned == text else " ".join(cleaned.split())


class Marks:
    """Counts and reports the marks in texts."""

    def __init__(self) -> None:
        self.texts = 0
        """Number of all texts, with or without marks."""
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def look(self, place: str, text: str) -> None:
        """
        :param place: where the text is, such as "line 7".
        :param text: the text as it stands there; a text without any place in `signs` need not be looked at.
        """
        for kind in _KINDS:
            if (match := _find(kind, text)) is not None:
                self._counts[kind.name] += 1
                self._first.setdefault(kind.name, f"{place}: {_around(match)!r}")

    def tell(self, path: Location, mode: CleanText) -> None:
        """Logs one line for each kind of marks, removed or not, with a count and an example."""
        for kind, where in self._found():
            if mode in kind.modes:
                log.info("%s: %s taken out of %s (clean_text=%s)", path, kind.name, where, mode)
            else:
                log.warning(
                    "%s: found %s in %s; they are learnt and scored as they are, %s=%s takes them out",
                    path, kind.name, where, _KEY, kind.modes[0],
                )  # fmt: skip

    def describe(self) -> list[str]:
        """A line for each kind of marks in texts that are scored as they are."""
        return [f"found {kind.name} in {where}; they are scored as they are" for kind, where in self._found()]

    def _found(self) -> Iterator[tuple[_Kind, str]]:
        for kind in _KINDS:
            if count := self._counts[kind.name]:
                yield kind, f"{count} of {self.texts} texts, first in {self._first[kind.name]}"


def describe_marks(texts: Sequence[tuple[str, str]]) -> list[str]:
    """See `Marks.describe`.

    :param texts: pairs of a row's name and its text.
    """
    marks = Marks()
    marks.texts = len(texts)
    for name, text in texts:
        marks.look(name, text)
    return marks.describe()


def signs(data: Bytes) -> Places:
    """Places of bytes at which a mark of any kind may be: a text without such a place has no marks.

    :param data: UTF-8, with `PADDING`; tabs and line feeds separate texts.
    """
    kinds, pairs, dashes = _sign_tables()
    # Translated as bytes: numpy would make eight bytes of each byte before it looks it up.
    kind = np.frombuffer(data.tobytes().translate(kinds), dtype=np.uint8)
    places = np.flatnonzero((kind[:-PADDING] & _FIRST).astype(np.bool_))
    first, second, third = data[places], data[places + 1], data[places + 2]
    is_other = ((first == 0xE2) & (second == 0x80) & dashes[third]) | ((first == 0xE3) & (third != 0x80))
    # A space beside another space, or beside the end of a text.
    doubled = (kind & _SPACE).astype(np.bool_)
    ends = (kind & (_SPACE | _END)).astype(np.bool_)
    doubled[1:-1] &= ends[:-2] | ends[2:]
    return np.concatenate([places[pairs[first, second] & ~is_other], np.flatnonzero(doubled[:-PADDING])])


_SPACE, _FIRST, _END = 1, 2, 4


@cache
def _sign_tables() -> tuple[bytes, Flags, Flags]:
    """Three tables: what each byte may be (a space, the first byte of a sign, the end of a text: tab, line end, end of
    the file); which pairs of first and second bytes begin a sign; which third bytes after E2 80 belong to frequent
    characters that are no signs (dashes, quotation marks, the ellipsis)."""
    pairs = np.zeros((256, 256), dtype=bool)
    for byte in b"[<{&\0\x0b\x0c\x1c\x1d\x1e\x1f":
        pairs[byte] = True
    pairs[ord("("), ord("%")] = True
    for name in _NOISES.split("|"):
        for form in (name, name.upper()):
            pairs[ord("("), form.encode()[0]] = True
    for byte in string.ascii_letters.encode():
        pairs[ord("%"), byte] = True
    # Unicode's other white space begins with one of the last four bytes.
    for byte in b"\t\n\r \x0b\x0c\x1c\x1d\x1e\x1f\xc2\xe1\xe2\xe3":
        pairs[ord(":"), byte] = pairs[ord("-"), byte] = True
    pairs[0xC2, [0x85, 0xA0, 0xAD]] = True
    pairs[0xE1, 0x9A] = pairs[0xE2, 0x80] = pairs[0xE2, 0x81] = pairs[0xE3, 0x80] = pairs[0xEF, 0xBB] = True
    dashes = np.zeros(256, dtype=bool)
    dashes[[*range(0x90, 0x9F), 0xA6]] = True
    kinds = np.where(pairs.any(axis=1), _FIRST, 0).astype(np.uint8)
    kinds[[*b"\t\n\r\0"]] |= _END
    kinds[ord(" ")] |= _SPACE
    return kinds.tobytes(), pairs, dashes


def _find(kind: _Kind, text: str) -> re.Match[str] | None:
    """The first match that removal would change: not every word between & and ; is an entity."""
    return next((match for match in kind.pattern.finditer(text) if kind.replace(match) != match[0]), None)


def _around(match: re.Match[str]) -> str:
    begin = max(0, match.start() - _SHOWN // 4)
    return match.string[begin : begin + _SHOWN]
