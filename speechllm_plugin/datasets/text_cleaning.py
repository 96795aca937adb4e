"""What texts of corpora hold beside the words that are said: found and told, and taken out where that is asked for.

What may be words or signs of a language stays: the joiners of Persian and of Indian scripts, round brackets around
anything but the names of noises.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CleanText = Literal["none", "entities", "marks", "all"]

log = logging.getLogger(__name__)

_KEY = "dataset.config_overrides.clean_text"
_SHOWN = 60


@dataclass(frozen=True)
class _Kind:
    name: str
    """In messages."""
    modes: tuple[CleanText, ...]
    """Values of `clean_text` that take it out; the first is the one to advise."""
    pattern: re.Pattern[str]
    replace: Callable[[re.Match[str]], str]


def _nothing(match: re.Match[str]) -> str:
    return ""


def _blank(match: re.Match[str]) -> str:
    return " " if match.start() > 0 and match.end() < len(match.string) else ""


def _said(match: re.Match[str]) -> str:
    """Switchboard's `[laughter-yeah]` is a word."""
    return f" {match['said'] or ''} "


# Subtitles of talks (TED, and so MuST-C) put them in round brackets, in the language of the text.
_NOISES = (
    "laughter|laughs|laughing|applause|cheers|cheering|music|singing|noise|silence|inaudible|unintelligible|crosstalk|"
    "gelächter|lachen|applaus|beifall|musik|rires?|applaudissements|musique|risas?|aplausos|música|risate|applausi|"
    "musica|risos|gelach|muziek|смех|аплодисменты|музыка"
)


# In the order in which they are taken out: an entity may be the bracket of a mark, and what is taken out leaves blanks.
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
    """Without what `mode` takes out; where it takes anything, without the blanks that this leaves."""
    if mode == "none":
        return text
    cleaned = text
    for kind in _KINDS:
        # Again, as entities may have been escaped twice, and brackets stand in brackets.
        while mode in kind.modes and (less := kind.pattern.sub(kind.replace, cleaned)) != cleaned:
            cleaned = less
    return text if cleaned == text else " ".join(cleaned.split())


def tell_of_marks(path: Path, texts: Sequence[tuple[int, str]], mode: CleanText) -> None:
    """One line a kind that `texts` hold, with a count and an example, whether it is taken out or not.

    :param texts: line of the manifest, and text as it stands there.
    """
    for kind, where in _found([(f"line {line}", text) for line, text in texts]):
        if mode in kind.modes:
            log.info("%s: %s taken out of %s (clean_text=%s)", path, kind.name, where, mode)
        else:
            log.warning(
                "%s: found %s in %s; they are learnt and scored as they are, %s=%s takes them out",
                path, kind.name, where, _KEY, kind.modes[0],
            )  # fmt: skip


def describe_marks(texts: Sequence[tuple[str, str]]) -> list[str]:
    """What to say of `texts` that are scored as they are: a line a kind.

    :param texts: name of a row, and its text.
    """
    return [f"found {kind.name} in {where}; they are scored as they are" for kind, where in _found(texts)]


def _found(texts: Sequence[tuple[str, str]]) -> Iterator[tuple[_Kind, str]]:
    """The kinds that are there; of each, in how many texts, and the first of them."""
    for kind in _KINDS:
        found = [(name, match) for name, text in texts if (match := _find(kind, text)) is not None]
        if found:
            name, match = found[0]
            yield kind, f"{len(found)} of {len(texts)} texts, first in {name}: {_around(match)!r}"


def _find(kind: _Kind, text: str) -> re.Match[str] | None:
    """The first place that taking out would change: not every word between & and ; is an entity."""
    return next((match for match in kind.pattern.finditer(text) if kind.replace(match) != match[0]), None)


def _around(match: re.Match[str]) -> str:
    begin = max(0, match.start() - _SHOWN // 4)
    return match.string[begin : begin + _SHOWN]
