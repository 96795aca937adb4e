"""A table with marks, written as Markdown, LaTeX, CSV or HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

_LATEX = str.maketrans({
    "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
})  # fmt: skip


@dataclass(frozen=True)
class Entry:
    text: str
    value: float | None = None
    """The number that the entry is sorted and ranked by; None for text."""
    star: bool = False
    """Whether the difference from the baseline is not significant."""
    underlined: bool = False
    """Whether it is the best of its block."""
    bold: bool = False
    """Whether it is the best of its column."""
    more: str = ""
    """Interval and p, which the page shows on demand."""


@dataclass(frozen=True)
class Table:
    name: str
    """Name of the table's files, such as `table3`."""
    title: str
    columns: list[str]
    rows: list[list[Entry]]
    notes: list[str] = field(default_factory=list)
    folded: bool = False
    """Whether the page shows the table, a long one, only on demand."""


def ranked(table: Table, better: Sequence[str], blocks: Sequence[str]) -> Table:
    """The table with the best entry of each column bold and the best of each block underlined.

    :param better: `lower`, `higher` or empty (not ranked) for each column.
    :param blocks: the block of each row.
    """
    rows = [list(row) for row in table.rows]
    for place, direction in enumerate(better):
        if not direction:
            continue
        pick = min if direction == "lower" else max
        values = {number: row[place].value for number, row in enumerate(rows) if row[place].value is not None}
        best = pick((value for value in values.values() if value is not None), default=None)
        for number, value in values.items():
            block = [other for at, other in values.items() if blocks[at] == blocks[number] and other is not None]
            rows[number][place] = replace(rows[number][place], bold=value == best, underlined=value == pick(block))
    return replace(table, rows=rows)


def markdown(table: Table) -> str:
    def cell(entry: Entry) -> str:
        text = entry.text.replace("|", r"\|") + (r"\*" if entry.star else "")
        text = f"<u>{text}</u>" if entry.underlined else text
        return f"**{text}**" if entry.bold else text

    lines = [table.columns, ["---", *["---:"] * (len(table.columns) - 1)],
             *([cell(entry) for entry in row] for row in table.rows)]  # fmt: skip
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([f"## {table.title}", body, *table.notes]) + "\n"


def latex(table: Table) -> str:
    """LaTeX with booktabs."""

    def cell(entry: Entry) -> str:
        text = entry.text.translate(_LATEX) + ("$^{*}$" if entry.star else "")
        text = rf"\underline{{{text}}}" if entry.underlined else text
        return rf"\textbf{{{text}}}" if entry.bold else text

    rows = [" & ".join(cell(entry) for entry in row) + r" \\" for row in table.rows]
    caption = ". ".join(text.rstrip(".").translate(_LATEX) for text in (table.title, *table.notes))
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", r"\toprule",
        " & ".join(column.translate(_LATEX) for column in table.columns) + r" \\", r"\midrule", *rows, r"\bottomrule",
        r"\end{tabular}", rf"\caption{{{caption}.}}",
        rf"\label{{tab:{table.name}}}", r"\end{table}", "",
    ])  # fmt: skip


def comma_separated(table: Table) -> str:
    """CSV with unrounded values, and a column `COLUMN not significant` for each column with marks."""
    starred = [place for place in range(len(table.columns)) if any(row[place].star for row in table.rows)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*table.columns, *(f"{table.columns[place]} not significant" for place in starred)])
    for row in table.rows:
        writer.writerow([*(entry.text if entry.value is None else f"{entry.value:.6g}" for entry in row),
                         *("yes" if row[place].star else "" for place in starred)])  # fmt: skip
    return stream.getvalue()


def hypertext(table: Table) -> str:
    """HTML with buttons in the head that sort the table."""

    def cell(entry: Entry, first: bool) -> str:
        text = html.escape(entry.text) + ("<sup>*</sup>" if entry.star else "")
        text = f"<u>{text}</u>" if entry.underlined else text
        text = f"<b>{text}</b>" if entry.bold else text
        more = f"<small>{html.escape(entry.more)}</small>" if entry.more else ""
        value = "" if entry.value is None else f' data-value="{entry.value!r}"'
        tag = 'th scope="row"' if first else "td"
        return f"<{tag}{value}>{text}{more}</{tag[:2]}>"

    head = "".join(f'<th scope="col"><button type="button">{html.escape(column)}</button></th>'
                   for column in table.columns)  # fmt: skip
    body = "\n".join("<tr>" + "".join(cell(entry, not place) for place, entry in enumerate(row)) + "</tr>"
                     for row in table.rows)  # fmt: skip
    notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in table.notes)
    identity = re.sub(r"\W+", "-", table.name)
    title = html.escape(table.title)
    inside = (f"<div class=wide><table class=sortable><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
              f"{notes}")  # fmt: skip
    if table.folded:
        return f'<section id="{identity}"><details><summary>{title}</summary>{inside}</details></section>'
    return f'<section id="{identity}"><h2>{title}</h2>{inside}</section>'
