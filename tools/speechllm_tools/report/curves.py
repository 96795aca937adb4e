"""SVG figures for the page: training curves, and scores plotted against rate and time."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_tools.report.runs import Run
from speechllm_tools.report.table import Table

_CHARACTERS = 18
"""Characters of a legend that fit into an inch."""


def training_curves(runs: Sequence[Run]) -> str | None:
    """Plots losses by step; None if no run was trained here."""
    losses = [loss for loss in ("NLL Loss", "CTC Loss") if any(loss in line for run in runs for line in run.lines)]
    if not losses:
        return None
    figure, axes = _figure(len(losses))
    looks = _looks(len(runs))
    for axis, loss in zip(axes, losses, strict=True):
        for run, name, look in zip(runs, short_names(runs), looks, strict=True):
            points = [(line["Step"], line[loss]) for line in run.lines if loss in line]
            if points:
                axis.plot(*zip(*points, strict=True), look.line, color=look.colour, label=name, linewidth=1.2)
        axis.set(xlabel="step", ylabel=loss, yscale="log")
    _add_legend(figure, axes)
    return _svg(figure)


def trade_offs(runs: Sequence[Run], scores: Sequence[Table]) -> str | None:
    """Plots the last column of each table against output rate, decoding time and training time; None if there is
    none."""
    measures = [
        ("vectors a second", [run.mean("speech_vectors_per_second") for run in runs]),
        ("real-time factor", [run.mean("rtf") for run in runs]),
        ("training (min)", [run.minutes for run in runs]),
    ]
    measures = [(name, values) for name, values in measures if any(value is not None for value in values)]
    if not measures or not scores:
        return None
    figure, axes = _figure(len(measures) * len(scores), columns=len(measures))
    plots = [(table, name, values) for table in scores for name, values in measures]
    looks = _looks(len(runs))
    for axis, (table, measure, values) in zip(axes, plots, strict=True):
        by_name = {row[0].text: row[len(table.columns) - 1] for row in table.rows}
        for run, name, look, value in zip(runs, short_names(runs), looks, values, strict=True):
            entry = by_name.get(run.name)
            if value is not None and entry is not None and entry.value is not None:
                axis.scatter([value], [entry.value], s=22, marker=look.marker, color=look.colour, label=name)
        axis.set(xlabel=measure, ylabel=table.title.removeprefix("Table III: "))
    _add_legend(figure, axes)
    return _svg(figure)


def short_names(runs: Sequence[Run]) -> list[str]:
    """Names without the parts that all share: `whisper.llama.cif` beside `whisper.llama.ctc` is `cif`."""
    parts = [run.name.split(".") for run in runs]
    if len(runs) < 2 or len({*map(len, parts)}) > 1:
        return [run.name for run in runs]
    told = [place for place in range(len(parts[0])) if len({row[place] for row in parts}) > 1]
    return [".".join(row[place] for place in told) for row in parts]


@dataclass(frozen=True)
class _Look:
    colour: str
    line: str
    marker: str


def _looks(count: int) -> list[_Look]:
    """A look for each run: ten colours, then the same colours with other lines and marks."""
    styles = (("-", "o"), ("--", "^"), (":", "s"), ("-.", "D"))
    return [_Look(f"C{number % 10}", *styles[number // 10 % len(styles)]) for number in range(count)]


def _add_legend(figure: Any, axes: Sequence[Any]) -> None:
    """Adds one legend below all axes, so that it covers nothing."""
    shown: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            shown.setdefault(name, handle)
    if shown:
        columns = max(1, int(figure.get_size_inches()[0] * _CHARACTERS // (max(map(len, shown)) + 6)))
        figure.legend(shown.values(), shown, loc="outside lower center", fontsize=7, frameon=False, ncols=columns)


def _figure(count: int, columns: int | None = None) -> tuple[Any, list[Any]]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"report: found no matplotlib ({error}), expected it: pip install matplotlib, or "
                        "--no-curves") from None  # fmt: skip
    columns = columns or count
    rows = -(-count // columns)
    figure = Figure(figsize=(4.4 * columns, 3.2 * rows + 0.6), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _svg(figure: Any) -> str:
    import matplotlib

    stream = io.StringIO()
    # The fixed salt makes the same figure the same file; text stays text, in the page's font.
    with matplotlib.rc_context({"svg.hashsalt": "speechllm", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = re.sub(r"\s(width|height)=\"[\d.]+pt\"", "", text[text.index("<svg") :], count=2)
    text = text.replace("<svg", f'<svg style="max-width: {130 * figure.get_size_inches()[0]:.0f}px"', 1)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
