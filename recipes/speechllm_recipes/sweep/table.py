"""The tables that a sweep shows before and while it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from speechllm_recipes.given_keys import given_keys
from speechllm_recipes.sweep.cells import EVALUATION, CellFolder

_ACCUMULATE, _BATCH = 4, 10
"""The recipe's defaults."""
_STEPS = 28_000


class Board:
    """A table that is redrawn, or a line for each change."""

    def __init__(self, cells: Sequence[CellFolder], live: bool) -> None:
        self._cells = cells
        self._states = {cell.folder: "waiting" for cell in cells}
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False) if live else None

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def set(self, cell: CellFolder, state: str) -> None:
        changed = self._states[cell.folder] != state
        self._states[cell.folder] = state
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        elif changed:
            print(f"{cell.cell.name}: {state}{_scores_text(cell) if state.startswith('finished') else ''}", flush=True)

    def tell(self, line: str) -> None:
        if self._live is not None:
            self._console.print(line, markup=False)

    def _table(self) -> Table:
        table = Table("cell", "state", "step", "loss", "score")
        for cell in self._cells:
            step, total, loss = cell.progress()
            table.add_row(cell.cell.name, self._states[cell.folder], f"{step:,}" + (f" / {total:,}" if total else ""),
                          "" if loss is None else f"{loss:.3f}", _scores_text(cell).strip(" :"))
        return table


def _scores_text(cell: CellFolder) -> str:
    parts = []
    for file in sorted((cell.folder / EVALUATION).glob("*/scores.json")):
        with suppress(OSError, ValueError, KeyError):
            scores = json.loads(file.read_text(encoding="utf-8"))["scores"]
            if "asr" in scores and scores["asr"]["wer"] is not None:
                parts.append(f"{file.parent.name} WER {100 * scores['asr']['wer']:.1f}")
            if "st" in scores:
                parts.append(f"{file.parent.name} BLEU {scores['st']['bleu']:.1f}")
    return f": {', '.join(parts)}" if parts else ""


def dry_run_table(
    facts: Sequence[tuple[CellFolder, Mapping[str, Any]]], *, tflops: float, processes: int, seconds: float
) -> str:
    rows = [["cell", "trained M", "frozen B", "steps", "clips a step", "GB a GPU", "GPU hours", "hours"]]
    total = 0.0
    for cell, found in facts:
        given = dict(given_keys(cell.cell.train or {}))
        steps = int(given.get("regime.num_steps", _STEPS))
        batch = int(given.get("dataset.batch_size", _BATCH))
        clips = processes * batch * int(given.get("trainer.grad_accumulation.num_batches", _ACCUMULATE))
        cost = found["training"]
        hours = steps * clips * cost["flops_per_sample"] / (tflops * 1e12) / 3600
        total += hours
        rows.append([
            cell.cell.name,
            f"{found['parameters']['trainable'] / 1e6:.2f}",
            f"{found['parameters']['frozen'] / 1e9:.3f}",
            f"{steps:,}",
            f"{clips:,}",
            f"{cost['bytes_per_gpu'] / 1e9:.1f}",
            f"{hours:.1f}",
            f"{hours / processes:.1f}",
        ])  # fmt: skip
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([
        *lines,
        f"{len(facts)} cells, {total:,.0f} GPU hours of training in all.",
        f"Estimated for clips of {seconds:g} s on {processes} GPUs a cell that keep up {tflops:g} TFLOP/s each; "
        "decoding is not counted.",
    ])  # fmt: skip
