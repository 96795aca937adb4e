"""Turns statistics into results: scores with intervals, comparisons and spreads over seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from speechllm_plugin.scoring.segments import SegmentStatistics
from speechllm_plugin.scoring.significance import (
    RESAMPLES,
    SEED,
    Method,
    compare,
    interval,
    mean_score,
    seed_spread,
)
from speechllm_tools.score.counts import Measured, counts

AVERAGE = "average"
"""Label of the unweighted mean of the scores over languages or directions."""


@dataclass(frozen=True)
class Resampling:
    resamples: int = RESAMPLES
    seed: int = SEED
    method: Method | None = None
    """None chooses by the number of segments."""


def strata(one: Measured, metric: str) -> dict[str, list[SegmentStatistics]]:
    """The columns of a table: each label, and the average of all if there are several."""
    labels = one.statistics[metric]
    columns = {label: [statistics] for label, statistics in labels.items()}
    return {**columns, AVERAGE: list(labels.values())} if len(labels) > 1 else columns


def score_of(one: Measured, metric: str, resampling: Resampling) -> dict[str, Any]:
    return {
        column: {
            "score": mean_score(part),
            "interval": asdict(found)
            if (found := interval(part, resampling.resamples, resampling.seed)) is not None else None,
            "segments": sum(len(each.counts) for each in part),
            "signature": ", ".join(dict.fromkeys(each.signature for each in part)),
        }
        for column, part in strata(one, metric).items()
    }  # fmt: skip


def results(
    measured: Sequence[Measured],
    resampling: Resampling,
    *,
    baseline: str | None = None,
    pairs: bool = False,
    seeds: bool = False,
) -> dict[str, Any]:
    """All results in a form that JSON can hold.

    :param baseline: name of the system against which the others are tested.
    :param pairs: also test each pair.
    :param seeds: also report the spread; the systems differ only in the seed of training.
    """
    names = [one.system.name for one in measured]
    metrics = list(dict.fromkeys(metric for one in measured for metric in one.statistics))
    found: dict[str, Any] = {
        "resampling": {"resamples": resampling.resamples, "seed": resampling.seed},
        "systems": {
            one.system.name: {
                "files": [str(data.file) for data in one.system.sets],
                "cut": {data.name: data.cut for data in one.system.sets},
                "counts": {label: counts(rows) for label, rows in one.sets.items()},
                "scores": {metric: score_of(one, metric, resampling) for metric in metrics},
            }
            for one in measured
        },
        "comparisons": [],
    }

    for metric in metrics:
        columns = [strata(one, metric) for one in measured]
        for one, other in _pairs(names, baseline, pairs):
            for column in columns[one]:
                comparison = compare(columns[one][column], columns[other][column], resampling.method,
                                     resampling.resamples, resampling.seed)
                found["comparisons"].append(
                    {"metric": metric, "set": column, "first": names[one], "second": names[other], **asdict(comparison)}
                )
    if seeds:
        found["seeds"] = {
            metric: {
                column: asdict(seed_spread([mean_score(strata(one, metric)[column]) for one in measured]))
                for column in strata(measured[0], metric)
            }
            for metric in metrics
        }
    return found


def _pairs(names: Sequence[str], baseline: str | None, every: bool) -> list[tuple[int, int]]:
    """Index pairs of the systems to test, with the baseline second."""
    if not every and baseline is None:
        return []
    chosen = [pair for pair in itertools.combinations(range(len(names)), 2)
              if every or baseline in (names[pair[0]], names[pair[1]])]
    return [(other, one) if names[one] == baseline else (one, other) for one, other in chosen]
