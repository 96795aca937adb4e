"""Plots the share of the copy bandwidth over the shapes."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from speechllm_tools.bench.framework import Result
from speechllm_tools.bench.timing import BOTH, FORWARD


def why_not() -> str | None:
    """Why no plot can be made here, or None."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is not installed (pip install 'speechllm-plugin[bench]')"
    return None


def save_plot(title: str, results: Sequence[Result], path: Path) -> None:
    """Draws a panel for each operation, with bars for each shape and implementation, of the longest timed pass."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    operations: dict[str, list[Result]] = {}
    for result in results:
        if result.shares:
            operations.setdefault(result.operation, []).append(result)
    figure = Figure(figsize=(10, 1 + 3.2 * max(1, len(operations))), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(max(1, len(operations)), 1, squeeze=False)[:, 0]
    for panel, (operation, members) in zip(panels, operations.items(), strict=False):
        labels = list(dict.fromkeys(_label(result) for result in members))
        names = list(dict.fromkeys(result.implementation for result in members))
        width = 0.8 / len(names)
        part = BOTH if any(BOTH in result.shares for result in members) else FORWARD
        for index, name in enumerate(names):
            mine = {_label(result): result.shares.get(part, 0.0) for result in members if result.implementation == name}
            places = [position + (index - (len(names) - 1) / 2) * width for position in range(len(labels))]
            panel.bar(places, [100 * mine.get(label, 0.0) for label in labels], width, label=name)
        panel.set_xticks(range(len(labels)), labels, fontsize=7)
        panel.set_ylabel("% of copy bandwidth")
        panel.set_title(f"{operation}, {part}")
        panel.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def _label(result: Result) -> str:
    return f"{'x'.join(map(str, result.shape))}\n{result.dtype} {result.variant}"
