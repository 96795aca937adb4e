"""Shows references beside hypotheses in a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from speechllm_plugin.scoring.report import Hypothesis


def format_table(rows: Sequence[Hypothesis], n: int, width: int = 100) -> str:
    """The first ``n`` rows in two columns, reference and hypothesis, within ``width`` terminal cells.

    Long texts wrap; wide (East Asian) characters count as two cells. No line end at the end.
    """
    column = (width - 3) // 2
    rule = "-" * column + "-+-" + "-" * column
    lines = [f"{_pad('reference', column)} | hypothesis", rule]
    for row in rows[:n]:
        left, right = _wrap(row.reference, column), _wrap(row.hypothesis or "(empty)", column)
        lines += [f"{_pad(a, column)} | {b}".rstrip() for a, b in zip_longest(left, right, fillvalue="")]
        lines.append(rule)
    if len(rows) > n:
        lines.append(f"... and {len(rows) - n} more")
    return "\n".join(lines)


def format_wer(asr: Mapping[str, Any], digits: int = 1) -> str:
    """The error rate in percent with its interval: `3.2 [2.1, 4.4]`, or `3.2 [no interval]` for few utterances.

    :param asr: the entry `asr` of :func:`~speechllm_plugin.scoring.report.score`.
    """
    low, high = asr["wer_low"], asr["wer_high"]
    interval = "no interval" if low is None else f"{100 * low:.{digits}f}, {100 * high:.{digits}f}"
    return f"{100 * asr['wer']:.{digits}f} [{interval}]"


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and _cells(lines[-1]) + 1 + _cells(word) <= width:
            lines[-1] += " " + word
            continue
        if lines[-1]:
            lines.append("")
        # The word is longer than a line, as a whole sentence is in a language without spaces.
        for character in word:
            if _cells(lines[-1]) + _cells(character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _cells(text))


def _cells(text: str) -> int:
    return sum(_cell(character) for character in text)


def _cell(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf", "Cc"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
