"""Statistics of segments: their sums give the scores of jiwer and sacreBLEU, of whole sets and of resampled ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import jiwer
import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF, TER

from speechllm_plugin.scoring.normalizers import get_normalizer
from speechllm_plugin.scoring.report import Hypothesis
from speechllm_plugin.scoring.segments import (
    SegmentStatistics,
    bleu_statistics,
    character_statistics,
    chrf_statistics,
    error_statistics,
    mean_over_clips,
    mean_statistics,
    ter_statistics,
)
from tests.plugin.scoring_rows import ROW

WORDS = ["der", "die", "das", "Hund", "läuft", "schnell,", "durch", "große", "Park.", "heute", "ist", "schön", "in"]


def noisy_rows(count: int, share: float, seed: int = 0, longest: int = 12) -> list[Hypothesis]:
    """Sentences of which a share of the words is another."""
    said, heard = random.Random(1), random.Random(seed)
    rows = []
    for number in range(count):
        reference = [said.choice(WORDS) for _ in range(said.randint(1, longest))]
        hypothesis = [heard.choice(WORDS) if heard.random() < share else word for word in reference]
        rows.append(replace(ROW, id=str(number), reference=" ".join(reference), hypothesis=" ".join(hypothesis),
                            src_lang="en", tgt_lang="de"))
    return rows


SACREBLEU: list[tuple[Callable[[Sequence[Hypothesis]], SegmentStatistics], Callable[[], BLEU | CHRF | TER]]] = [
    (bleu_statistics, BLEU), (chrf_statistics, CHRF), (ter_statistics, TER),
]  # fmt: skip


@pytest.mark.parametrize(("statistics_of", "metric"), SACREBLEU)
@pytest.mark.parametrize(
    "rows",
    [
        noisy_rows(40, 0.3),
        noisy_rows(40, 0.9),
        [replace(ROW, reference="a b c d e f", hypothesis="a x c y e z")],  # no 2-gram matches: smoothed
        noisy_rows(3, 0.0, longest=3),  # no segment of four words
        [replace(ROW, hypothesis="")] * 2,
        [replace(ROW, hypothesis="zzz qqq zzz qqq")],  # nothing matches
        [replace(ROW, hypothesis="turn on the light please now then")],  # longer than the reference
    ],
)
def test_scores_are_sacrebleus(
    statistics_of: Callable[[Sequence[Hypothesis]], SegmentStatistics],
    metric: Callable[[], BLEU | CHRF | TER],
    rows: list[Hypothesis],
) -> None:
    expected = metric().corpus_score([row.hypothesis for row in rows], [[row.reference for row in rows]]).score
    statistics = statistics_of(rows)
    assert statistics.score == pytest.approx(expected, abs=1e-9)
    assert "version:2" in statistics.signature


@pytest.mark.parametrize(("statistics_of", "metric"), SACREBLEU)
def test_a_resampled_score_is_that_of_the_resampled_segments(
    statistics_of: Callable[[Sequence[Hypothesis]], SegmentStatistics], metric: Callable[[], BLEU | CHRF | TER]
) -> None:
    rows = noisy_rows(12, 0.4)
    drawn = [3, 3, 0, 11, 7, 7, 7, 2, 1, 9, 10, 4]
    counts = np.bincount(drawn, minlength=12)
    statistics = statistics_of(rows)
    chosen = [rows[place] for place in drawn]
    expected = metric().corpus_score([row.hypothesis for row in chosen], [[row.reference for row in chosen]]).score
    assert float(statistics.formula(counts @ statistics.counts)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["none", "basic", "verdini"])
def test_error_rates_are_jiwers(name: str) -> None:
    rows = noisy_rows(30, 0.3)
    normalize = get_normalizer(name, "de")
    references = [normalize(row.reference) for row in rows]
    hypotheses = [normalize(row.hypothesis) for row in rows]
    errors = error_statistics(rows, name)
    assert errors.score == pytest.approx(100 * jiwer.wer(references, hypotheses))
    assert character_statistics(rows, name).score == pytest.approx(100 * jiwer.cer(references, hypotheses))
    rates = [100 * jiwer.wer(one, other) for one, other in zip(references, hypotheses, strict=True)]
    assert mean_over_clips(errors).score == pytest.approx(sum(rates) / len(rates))
    assert f"normalizer:{name}" in errors.signature and "mean over clips" in mean_over_clips(errors).signature


def test_languages_without_spaces_count_characters() -> None:
    rows = [replace(ROW, reference="你好 世界", hypothesis="你好是界", src_lang="zh", tgt_lang="zh")]
    assert error_statistics(rows, "basic").score == character_statistics(rows, "basic").score == 25.0


def test_clips_without_words_have_no_rate_of_their_own() -> None:
    rows = [replace(ROW, reference="", hypothesis="made up"), replace(ROW, reference="a b", hypothesis="a")]
    errors = error_statistics(rows, "basic")
    assert errors.score == 150.0  # what was made up counts in the corpus
    assert mean_over_clips(errors).score == 50.0
    assert math.isnan(mean_over_clips(error_statistics(rows[:1], "basic")).score)


def test_a_segment_without_a_score_does_not_count() -> None:
    statistics = mean_statistics([0.5, math.nan, 0.7], "signature")
    assert statistics.score == pytest.approx(60.0)
