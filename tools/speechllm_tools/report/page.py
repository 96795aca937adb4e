"""The report as one HTML file, which loads no other file."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechllm_tools.report.table import Table, hypertext

_FOLDER = Path(__file__).with_name("page")


def page(
    title: str,
    tables: Sequence[Table],
    *,
    figures: Mapping[str, str] | None = None,
    systems: Sequence[str] = (),
    utterances: Sequence[Mapping[str, Any]] = (),
    in_all: int = 0,
) -> str:
    """
    :param figures: SVG by title.
    :param systems: names in the order of each utterance's outputs.
    :param in_all: number of all utterances; `utterances` are the worst of them.
    """
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    sections = [hypertext(table) for table in tables]
    for number, (name, svg) in enumerate((figures or {}).items()):
        sections.append(f'<section id="figure{number}"><h2>{html.escape(name)}</h2><div class="wide figure">{svg}</div>'
                        "</section>")  # fmt: skip
    if utterances:
        sections.append(_browser(systems, len(utterances), in_all))
    links = "".join(f'<a href="#{table.name}">{html.escape(table.title)}</a>' for table in tables)
    links += '<a href="#utterances">Utterances</a>' if utterances else ""
    tested = any(entry.more for table in tables for row in table.rows for entry in row)
    sure = "<label><input type=checkbox id=sure> intervals and p-values</label>" if tested else ""
    # A `</script>` inside a text would end the data.
    data = json.dumps({"systems": list(systems), "utterances": list(utterances)}, ensure_ascii=False)
    data = data.replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head><body>"
        f"<header><h1>{html.escape(title)}</h1><nav>{links}</nav>{sure}</header><main>{''.join(sections)}</main>"
        f'<script type="application/json" id="data">{data}</script><script>{script}</script></body></html>\n'
    )


def _browser(systems: Sequence[str], shown: int, in_all: int) -> str:
    options = "".join(f'<option value="{number}">{html.escape(name)}</option>' for number, name in enumerate(systems))
    kinds = "".join(f"<option>{kind}</option>" for kind in
                    ("substitute", "delete", "insert", "empty", "looping", "wrong language"))  # fmt: skip
    return (
        f'<section id="utterances"><h2>Utterances</h2><p class=note>The {shown:,} worst over all systems,'
        f" of {in_all:,}.</p><form id=filters>"
        f"<label>System <select id=one>{options}</select></label>"
        f"<label>beside <select id=other><option value=''>none</option>{options}</select></label>"
        f"<label>with <select id=kind><option value=''>any errors or none</option>{kinds}</select></label>"
        "<label>Order <select id=order><option value=worst>worst first</option><option value=difference>greatest "
        "difference first</option><option value=id>by id</option></select></label>"
        "<label>Text <input id=text type=search></label></form>"
        "<p id=count role=status></p><div id=list></div><button type=button id=more hidden>Show more</button></section>"
    )
