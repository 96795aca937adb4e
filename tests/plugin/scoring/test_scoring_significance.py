"""Tests of significance: uniform where nothing differs, and intervals that hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from speechllm_plugin.scoring.segments import SegmentStatistics, mean_statistics, percentage
from speechllm_plugin.scoring.significance import (
    Method,
    compare,
    coverage,
    interval,
    resampled_scores,
    seed_spread,
)


def errors_of(generator: np.random.Generator, words: np.ndarray, rates: np.ndarray) -> SegmentStatistics:
    """Word errors of clips, each with an error rate of its own."""
    counts = np.stack([generator.binomial(words, rates), words], axis=1).astype(float)
    return SegmentStatistics(counts, percentage, "")


def pair(seed: int, segments: int, gain: float = 0.0) -> tuple[SegmentStatistics, SegmentStatistics]:
    """Two systems on the same clips, hard and easy ones; the second makes `gain` more errors."""
    generator = np.random.default_rng(seed)
    words = generator.integers(3, 20, size=segments)
    rates = generator.beta(1, 5, size=segments)
    return errors_of(generator, words, rates), errors_of(generator, words, np.minimum(rates + gain, 1.0))


def scores_of(seed: int, segments: int) -> tuple[SegmentStatistics, SegmentStatistics]:
    """Two equal systems scored segment by segment, as by COMET: no two sets tie."""
    generator = np.random.default_rng(seed)
    easy = generator.beta(8, 2, size=segments)
    one, other = (easy + 0.1 * generator.standard_normal(segments) for _ in range(2))
    return mean_statistics(list(one), ""), mean_statistics(list(other), "")


SETS: list[tuple[Method, int, int]] = [
    ("randomization", 20, 400), ("randomization", 100, 400), ("bootstrap", 100, 400), ("bootstrap", 1000, 150),
]  # fmt: skip
"""Method, segments, pairs of systems that are compared."""


@pytest.mark.parametrize(("method", "segments", "trials"), SETS)
def test_without_a_difference_p_is_uniform(method: Method, segments: int, trials: int) -> None:
    found = np.array([
        compare([one], [other], method, resamples=200, seed=seed).p
        for seed in range(trials) for one, other in [scores_of(seed, segments)]
    ])  # fmt: skip
    # The greatest distance from the uniform distribution (Kolmogorov-Smirnov), 1.63 / sqrt(n) at the 1 % level.
    distance = np.abs(np.sort(found) - np.arange(1, trials + 1) / trials).max()
    assert distance < 1.63 / np.sqrt(trials) + 1 / 201


@pytest.mark.parametrize(("method", "segments", "trials"), SETS)
def test_equal_systems_differ_significantly_as_often_as_said(method: Method, segments: int, trials: int) -> None:
    """Of error counts, which tie more often."""
    found = np.array([
        compare([one], [other], method, resamples=200, seed=seed).p
        for seed in range(trials) for one, other in [pair(seed, segments)]
    ])  # fmt: skip
    assert (found < 0.05).mean() < 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize("method", ["bootstrap", "randomization"])
def test_equal_outputs_have_p_of_one(method: Method) -> None:
    one, _ = pair(0, 60)
    found = compare([one], [one], method)
    assert (found.difference, found.p, found.low, found.high) == (0.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize("method", ["bootstrap", "randomization"])
def test_exchanging_the_systems_changes_the_sign_only(method: Method) -> None:
    one, other = pair(3, 80, gain=0.02)
    there, back = compare([one], [other], method), compare([other], [one], method)
    assert back.p == there.p
    assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))


@pytest.mark.parametrize("method", ["bootstrap", "randomization"])
def test_a_true_difference_is_found(method: Method) -> None:
    one, other = pair(1, 400, gain=0.1)
    found = compare([one], [other], method)
    assert found.p == 1 / 1001
    assert found.low < found.difference < found.high < 0


def test_small_sets_are_tested_by_randomization() -> None:
    assert compare(*([each] for each in pair(0, 49))).method == "randomization"
    assert compare(*([each] for each in pair(0, 50))).method == "bootstrap"


def test_strata_are_averaged_and_resampled_apart() -> None:
    small, large = mean_statistics([0.2] * 10, ""), mean_statistics([0.8] * 1000, "")
    assert interval([small, large]) is not None
    scores = resampled_scores([[small, large]], 100, 0)[0]
    assert scores == pytest.approx(50.0)  # the mean of 20 and 80, whatever their sizes
    alike = mean_statistics(list(np.linspace(0, 1, 50)), "")
    apart = resampled_scores([[alike, alike]], 500, 0)[0]
    together = resampled_scores([[alike]], 500, 0)[0]
    assert apart.std() == pytest.approx(together.std() / np.sqrt(2), rel=0.15)


def test_other_segments_are_refused() -> None:
    with pytest.raises(ValueError, match="must be of the same segments"):
        compare([pair(0, 20)[0]], [pair(0, 21)[0]])


@pytest.mark.parametrize("segments", [20, 200])
def test_intervals_hold_the_truth_as_often_as_they_say(segments: int) -> None:
    truth, trials, held = 100 / 6, 300, 0
    for seed in range(trials):
        found = interval([pair(seed, segments)[0]], resamples=300, seed=seed)
        assert found is not None
        held += found.low <= truth <= found.high
    assert held / trials == pytest.approx(coverage(segments), abs=0.04)


def test_fewer_segments_than_two_have_no_interval() -> None:
    assert interval([mean_statistics([0.5], "")]) is None
    assert interval([mean_statistics([float("nan")] * 5, "")]) is None


def test_the_same_seed_gives_the_same_figures_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pair(5, 70, gain=0.01)
    whole = compare([one], [other], resamples=300)
    monkeypatch.setattr("speechllm_plugin.scoring.significance._BLOCK", 70 * 7)
    assert compare([one], [other], resamples=300) == whole
    assert compare([one], [other], resamples=300, seed=1) != whole


def test_the_spread_over_seeds_is_the_deviation_of_the_runs() -> None:
    found = seed_spread([10.0, 12.0, 11.0])
    assert (found.mean, found.deviation, found.low, found.high, found.runs) == (11.0, 1.0, 10.0, 12.0, 3)
