"""Joins two texts whose pieces share some sound: words that both texts have are found and kept once."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher

_NEAR = 1.0
"""Seconds by which the times of one word may differ between two texts that share no other word."""


def meet(
    before: Sequence[tuple[str, float]], after: Sequence[tuple[str, float]], start: float, end: float, slack: float
) -> tuple[int, int]:
    """
    :param before: words of the earlier piece, each with the middle of its time.
    :param after: words of the later piece.
    :param start: where the shared sound begins, in seconds; it ends at `end`.
    :param slack: seconds by which times may be wrong.
    :returns: how many words of `before` to keep, and how many of `after` to leave out.
    """
    first = next((i for i, (_, time) in enumerate(before) if time >= start - slack), len(before))
    last = next((i for i, (_, time) in enumerate(after) if time > end + slack), len(after))
    tail, head = before[first:], after[:last]
    match = SequenceMatcher(
        None, [_plain(word) for word, _ in tail], [_plain(word) for word, _ in head], autojunk=False
    ).find_longest_match()
    is_same = match.size > 1 or (match.size == 1 and abs(tail[match.a][1] - head[match.b][1]) <= _NEAR)
    if is_same:
        # Words after the shared ones in the earlier text, or before them in the later one, are at a cut edge.
        return first + match.a + match.size, match.b + match.size
    middle = (start + end) / 2
    keep = next((i for i, (_, time) in enumerate(before) if time >= middle), len(before))
    skip = next((i for i, (_, time) in enumerate(after) if time >= middle), len(after))
    return keep, skip


def _plain(word: str) -> str:
    letters = (letter for letter in word.casefold() if unicodedata.category(letter)[0] in "LMN")
    # A sign without letters is a word, too.
    return "".join(letters) or word
