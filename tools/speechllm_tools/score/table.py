"""The tables that `speechllm score` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speechllm_tools.score.results import AVERAGE

_LOWER = ("wer", "wer_clips", "cer", "b_wer", "u_wer", "ter")
"""Metrics for which lower is better, by the part of their name before the colon."""
NEITHER = ("refusals", "words")
"""Metrics for which neither higher nor lower is better."""
SIGNIFICANT = 0.05


def lower_is_better(metric: str) -> bool:
    return metric.partition(":")[0] in _LOWER


def tables(found: Mapping[str, Any], baseline: str | None) -> str:
    """One table for each metric, one for the counts and, if there are comparisons, one for them."""
    systems = found["systems"]
    metrics = list(dict.fromkeys(metric for system in systems.values() for metric in system["scores"]))
    parts = [_scores(metric, systems, found["comparisons"], baseline) for metric in metrics]
    parts.append(_counts(systems))
    if others := [each for each in found["comparisons"] if baseline not in (each["first"], each["second"])]:
        parts.append(_comparisons(others))
    parts += [_seeds(metric, columns) for metric, columns in found.get("seeds", {}).items()]
    return "\n\n".join(parts)


def _scores(
    metric: str, systems: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]], baseline: str | None
) -> str:
    columns = list(next(iter(systems.values()))["scores"][metric])
    tested = {
        (each["first"], each["set"]): each["p"]
        for each in comparisons
        if each["metric"] == metric and each["second"] == baseline
    }
    better = "" if metric in NEITHER else f" ({'lower' if lower_is_better(metric) else 'higher'} is better)"
    rows = [[f"{metric}{better}", *columns]]
    small = False
    for name, system in systems.items():
        cells = []
        for column in columns:
            entry = system["scores"][metric][column]
            found = entry["interval"]
            cell = "-" if entry["score"] is None else f"{entry['score']:.2f}"
            if found is not None:
                cell += f" [{found['low']:.2f}, {found['high']:.2f}]"
                small = small or found["coverage"] < 0.95
            if (name, column) in tested:
                p = tested[name, column]
                cell += f" p={p:.3f}{'' if p < SIGNIFICANT else ' *'}"
            cells.append(cell)
        rows.append([name, *cells])
    signatures = dict.fromkeys(
        entry["signature"] for column, entry in next(iter(systems.values()))["scores"][metric].items()
        if column != AVERAGE
    )
    notes = [f"  {signature}" for signature in signatures]
    if baseline is not None:
        notes.append(f"  p: of the difference from {baseline}; * not significant (p >= {SIGNIFICANT})")
    if small:
        worst = min(
            (entry["interval"]["coverage"], entry["segments"])
            for system in systems.values() for entry in system["scores"][metric].values() if entry["interval"]
        )
        notes.append(f"  the intervals of {worst[1]} segments hold the truth in about {100 * worst[0]:g} % of sets")
    return "\n".join([*aligned_columns(rows), *notes])


def _counts(systems: Mapping[str, Any]) -> str:
    rows = [["counts", "set", "segments", "empty %", "looping %", "wrong language % (references)", "silent clips",
             "words there"]]
    for name, system in systems.items():
        for label, entry in system["counts"].items():
            wrong = entry["wrong_language"]
            own = entry["wrong_language_references"]
            silence = entry["silence"] or {"clips": 0, "words": 0}
            rows.append([
                name, label, f"{entry['segments']:,}", f"{100 * entry['empty']:.1f}", f"{100 * entry['looping']:.1f}",
                "-" if wrong is None else f"{100 * wrong:.1f} ({'-' if own is None else f'{100 * own:.1f}'})",
                str(silence["clips"]), str(silence["words"]),
            ])  # fmt: skip
    cut = [f"  {name}: {count} hypotheses of {data} were cut off at the length limit"
           for name, system in systems.items() for data, count in system["cut"].items() if count]
    return "\n".join([*aligned_columns(rows), *cut])


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    rows = [["comparison", "metric", "set", "difference", "95 % interval", "p", "method"]]
    rows += [
        [f"{each['first']} - {each['second']}", each["metric"], each["set"], f"{each['difference']:+.2f}",
         f"[{each['low']:+.2f}, {each['high']:+.2f}]", f"{each['p']:.3f}", each["method"]]
        for each in comparisons
    ]
    return "\n".join(aligned_columns(rows))


def _seeds(metric: str, columns: Mapping[str, Any]) -> str:
    rows = [[f"{metric}, over seeds", "mean", "standard deviation", "lowest", "highest", "runs"]]
    rows += [[column, *(f"{each[key]:.2f}" for key in ("mean", "deviation", "low", "high")), str(each["runs"])]
             for column, each in columns.items()]
    return "\n".join(aligned_columns(rows))


def aligned_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
