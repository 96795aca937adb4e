"""Intervals of scores, and p-values of differences, from resampled segments.

A set of segments may consist of several strata, such as the directions of a table. Each stratum is resampled by itself,
and the score is the mean of the strata's scores, as the averages in tables are. One direction is one stratum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from speechllm_plugin.scoring.segments import Floats, SegmentStatistics

RESAMPLES = 1000
SEED = 12345
RANDOMIZE_BELOW = 50
"""Segments below which the bootstrap's p-values are too small, and those of randomisation are not."""
COVERAGE = ((10, 0.78), (20, 0.85), (50, 0.90), (200, 0.935))
"""For sets with fewer segments than the first number, the share whose 95 % interval holds the true value, as measured
on sets of 5, 10, 20 and 50."""
_BLOCK = 1 << 24
"""Most draws in memory at a time."""

Method = Literal["bootstrap", "randomization"]
Strata = Sequence[SegmentStatistics]


@dataclass(frozen=True)
class Interval:
    low: float
    high: float
    coverage: float
    """Share of test sets of this size whose interval holds the true value: 0.95 only for large sets."""


@dataclass(frozen=True)
class Comparison:
    difference: float
    """Score of the first system minus that of the second."""
    p: float
    """Probability of a difference at least this large between equal systems."""
    low: float
    high: float
    """The 95 % interval of the difference."""
    method: Method
    segments: int
    resamples: int
    seed: int


def mean_score(strata: Strata) -> float:
    return sum(each.score for each in strata) / len(strata)


def interval(strata: Strata, resamples: int = RESAMPLES, seed: int = SEED) -> Interval | None:
    """The percentile interval of the bootstrap; None where no resample has a score, or there is only one segment."""
    size = sum(len(each.counts) for each in strata)
    scores = resampled_scores([strata], resamples, seed)[0]
    scores = scores[~np.isnan(scores)]
    if size < 2 or not len(scores):
        return None
    low, high = np.percentile(scores, [2.5, 97.5])
    return Interval(float(low), float(high), coverage(size))


def coverage(segments: int) -> float:
    return next((share for below, share in COVERAGE if segments < below), 0.95)


def compare(
    first: Strata, second: Strata, method: Method | None = None, resamples: int = RESAMPLES, seed: int = SEED
) -> Comparison:
    """Tests two systems on the same segments, two-sided.

    ``bootstrap``      paired resampling (Koehn 2004, W04-3250): p = (1 + #{|d_b - d| >= |d|}) / (1 + B). It is centred
                       by d, so that p is uniform where the systems are equal.
    ``randomization``  the systems' outputs are exchanged segment by segment (Riezler and Maxwell 2005, W05-0908):
                       p = (1 + #{|d_b| >= |d|}) / (1 + B). Exact for small sets.

    :param method: None = randomisation below 50 segments, else the bootstrap.
    """
    shapes = [[each.counts.shape for each in strata] for strata in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"`first` and `second` must be of the same segments, but are of {shapes[0]} and {shapes[1]}.")
    size = sum(len(each.counts) for each in first)
    method = method or ("randomization" if size < RANDOMIZE_BELOW else "bootstrap")
    difference = mean_score(first) - mean_score(second)
    scores = resampled_scores([first, second], resamples, seed)
    drawn = scores[0] - scores[1]
    deviations = drawn - difference if method == "bootstrap" else _exchanged(first, second, resamples, seed)
    deviations = deviations[~np.isnan(deviations)]
    # Sums in another order differ in the last digits, so nearly equal differences count as equal.
    reached = np.abs(deviations) >= abs(difference) - 1e-9
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (math.nan, math.nan)
    p = (1 + int(reached.sum())) / (1 + len(deviations)) if not math.isnan(difference) else math.nan
    return Comparison(difference, p, float(low), float(high), method, size, len(deviations), seed)


def resampled_scores(systems: Sequence[Strata], resamples: int, seed: int) -> list[Floats]:
    """The scores of each system on the same resampled sets, `[resamples]` each."""
    totals = [np.zeros(resamples) for _ in systems]
    for strata, generator in _each_stratum(systems, seed):
        size = len(strata[0].counts)
        for block in _blocks(resamples, size):
            drawn = _drawn(generator, block.stop - block.start, size)
            for total, statistics in zip(totals, strata, strict=True):
                total[block] += statistics.formula(drawn @ statistics.counts)
    return [total / len(systems[0]) for total in totals]


def _exchanged(first: Strata, second: Strata, resamples: int, seed: int) -> Floats:
    """Differences after the two outputs of each segment were exchanged at random, `[resamples]`."""
    differences = np.zeros(resamples)
    for (one, other), generator in _each_stratum([first, second], seed):
        size = len(one.counts)
        sums, gained = (each.counts.sum(axis=0) for each in (one, other)), other.counts - one.counts
        ones, others = sums
        for block in _blocks(resamples, size):
            moved = generator.integers(2, size=(block.stop - block.start, size), dtype=np.int8) @ gained
            differences[block] += one.formula(ones + moved) - other.formula(others - moved)
    return differences / len(first)


def _each_stratum(
    systems: Sequence[Strata], seed: int
) -> Iterator[tuple[list[SegmentStatistics], np.random.Generator]]:
    """The systems' statistics of one stratum, with random numbers of its own."""
    for number, strata in enumerate(zip(*systems, strict=True)):
        yield list(strata), np.random.default_rng([seed, number])


def _blocks(resamples: int, size: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(size, 1))
    for start in range(0, resamples, step):
        yield slice(start, min(resamples, start + step))


def _drawn(generator: np.random.Generator, rows: int, size: int) -> Floats:
    """The number of times that each segment was drawn, `[rows, size]`."""
    places = generator.integers(size, size=(rows, size)) + np.arange(rows)[:, None] * size
    return np.bincount(places.ravel(), minlength=rows * size).reshape(rows, size).astype(float)


@dataclass(frozen=True)
class Spread:
    """One system trained with several seeds."""

    mean: float
    deviation: float
    """Standard deviation of the runs."""
    low: float
    high: float
    runs: int


def seed_spread(scores: Sequence[float]) -> Spread:
    """The spread of a score over training seeds, which the interval over clips does not include.

    :param scores: scores of two or more runs that differ only in their seed.
    """
    values = np.asarray(scores, float)
    mean, deviation, low, high = map(float, (values.mean(), values.std(ddof=1), values.min(), values.max()))
    return Spread(mean, deviation, low, high, len(values))
