"""Counts of each metric in each segment, whose sums give the scores of whole sets and of resampled sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF, TER

from speechllm_plugin.scoring.answers import exact_match, is_refusal, token_f1
from speechllm_plugin.scoring.biasing import biased_errors
from speechllm_plugin.scoring.normalizers import get_normalizer
from speechllm_plugin.scoring.phrase_lists import PhraseLists
from speechllm_plugin.scoring.report import Hypothesis
from speechllm_plugin.scoring.wer import count_units, unit_of, word_errors
from speechllm_plugin.text.scripts import bleu_tokenizer, has_spaces

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SegmentStatistics:
    """One metric on the segments of one direction."""

    counts: Floats
    """K counts of each segment, `[segments, K]`."""
    formula: Callable[[Floats], Floats]
    """Turns sums of the counts, `[..., K]`, into scores, `[...]`."""
    signature: str
    """The way of counting, as the metric's library names it."""

    @property
    def score(self) -> float:
        return float(self.formula(self.counts.sum(axis=0)))


def error_statistics(rows: Sequence[Hypothesis], normalizer: str) -> SegmentStatistics:
    """Corpus rate of word errors in percent; of characters in languages without spaces."""
    language = rows[0].tgt_lang or rows[0].src_lang
    unit = unit_of(language)
    result = word_errors(_references(rows), _hypotheses(rows), normalizer, unit, language)
    counts = np.array([result.utterance_errors, result.utterance_words], float).T
    return SegmentStatistics(counts, percentage, f"normalizer:{normalizer}|unit:{unit}|jiwer:{_jiwer()}")


def character_statistics(rows: Sequence[Hypothesis], normalizer: str) -> SegmentStatistics:
    """Character errors in percent, as jiwer counts them: a space is a character, except in languages without spaces."""
    language = rows[0].tgt_lang or rows[0].src_lang
    normalize, spaces = get_normalizer(normalizer, language), has_spaces(language)
    counts = np.zeros((len(rows), 2))
    for row, count in zip(rows, counts, strict=True):
        reference, hypothesis = (
            normalize(text) if spaces else "".join(normalize(text).split()) for text in (row.reference, row.hypothesis)
        )
        output = jiwer.process_characters(reference, hypothesis)
        # As in jiwer, every character against an empty reference is an error.
        count[0] = output.substitutions + output.deletions + output.insertions
        count[1] = output.substitutions + output.deletions + output.hits
    return SegmentStatistics(counts, percentage, f"normalizer:{normalizer}|unit:char|jiwer:{_jiwer()}")


def mean_over_clips(errors: SegmentStatistics) -> SegmentStatistics:
    """The mean of the clips' own rates, in which short and long clips weigh the same. Clips whose reference has no
    words have no rate and do not count."""
    wrong, words = errors.counts.T
    counted = words > 0
    rates = np.divide(wrong, words, out=np.zeros_like(wrong), where=counted)
    counts = np.stack([rates, counted.astype(float)], axis=1)
    return SegmentStatistics(counts, percentage, f"{errors.signature}|mean over clips")


def biased_statistics(
    rows: Sequence[Hypothesis], normalizer: str, phrases: PhraseLists, *, in_list: bool
) -> SegmentStatistics:
    """B-WER or U-WER: errors of the words in a list, or of all others, in percent of those words.

    :raises UserError: there is no list for a row.
    """
    language = rows[0].tgt_lang or rows[0].src_lang
    unit = unit_of(language)
    indices = phrases.indices([row.id for row in rows], normalizer, unit, language)
    counts = biased_errors(_references(rows), _hypotheses(rows), indices)
    signature = f"normalizer:{normalizer}|unit:{unit}|jiwer:{_jiwer()}|list:{phrases.file.name}"
    return SegmentStatistics(counts[:, :2] if in_list else counts[:, 2:], percentage, signature)


def bleu_statistics(rows: Sequence[Hypothesis]) -> SegmentStatistics:
    """Hypothesis and reference length, then matches and totals of 1- to 4-grams."""
    metric = BLEU(tokenize=bleu_tokenizer(rows[0].tgt_lang))
    return SegmentStatistics(_sacrebleu(metric, rows), bleu, str(metric.get_signature()))


def chrf_statistics(rows: Sequence[Hypothesis]) -> SegmentStatistics:
    """Totals of the hypothesis, of the reference, and matches, of 1- to 6-grams of characters."""
    metric = CHRF()
    return SegmentStatistics(_sacrebleu(metric, rows), chrf, str(metric.get_signature()))


def ter_statistics(rows: Sequence[Hypothesis]) -> SegmentStatistics:
    """Edits and the reference's words."""
    metric = TER()
    return SegmentStatistics(_sacrebleu(metric, rows), percentage, str(metric.get_signature()))


def answer_statistics(
    rows: Sequence[Hypothesis], metric: str, references: Sequence[Sequence[str]]
) -> SegmentStatistics:
    """
    :param metric: `exact` or `f1`, in percent of the rows that have a reference.
    :param references: all right answers of each row.
    """
    pairs = [(row.hypothesis, right, row.tgt_lang or row.src_lang)
             for row, right in zip(rows, references, strict=True)]
    scores = [
        np.nan if not right
        else float(exact_match(answer, right)) if metric == "exact" else token_f1(answer, right, language)
        for answer, right, language in pairs
    ]
    return mean_statistics(scores, "SQuAD's normalisation|rows with a reference")


def refusal_statistics(rows: Sequence[Hypothesis]) -> SegmentStatistics:
    """Refusals in percent of all rows."""
    return mean_statistics([float(is_refusal(row.hypothesis)) for row in rows], "English patterns")


def length_statistics(rows: Sequence[Hypothesis]) -> SegmentStatistics:
    """Mean length in words, or characters in languages without spaces."""
    language = rows[0].tgt_lang or rows[0].src_lang
    unit = unit_of(language)
    lengths = [float(count_units(row.hypothesis, "basic", unit, language)) for row in rows]
    return mean_statistics(lengths, f"normalizer:basic|unit:{unit}", scale=1.0)


def mean_statistics(scores: Sequence[float], signature: str, scale: float = 100.0) -> SegmentStatistics:
    """The mean of scores that each segment has by itself, such as COMET's; a segment with `nan` does not count."""
    values = np.asarray(scores, float)
    counted = ~np.isnan(values)
    counts = np.stack([np.where(counted, values, 0.0), counted.astype(float)], axis=1)
    return SegmentStatistics(counts, lambda sums: scale / 100.0 * percentage(sums), signature)


def percentage(sums: Floats) -> Floats:
    """100 times the first sum over the second; `nan` where that is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] > 0, 100.0 * sums[..., 0] / sums[..., 1], np.nan)


def bleu(sums: Floats) -> Floats:
    """BLEU with sacreBLEU's default smoothing (`exp`: the k-th n-gram order without a match counts 1 / 2^k matches).

    :param sums: `[..., 10]`
    """
    lengths, reference = sums[..., 0], sums[..., 1]
    correct, total = sums[..., 2:6], sums[..., 6:10]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        missed = np.cumsum(correct == 0, axis=-1)
        precision = np.where(correct > 0, correct / total, 1.0 / (2.0**missed * total))
        penalty = np.where(lengths < reference, np.exp(1.0 - reference / lengths), 1.0)
        score = 100.0 * penalty * np.exp(np.log(precision).mean(axis=-1))
    # As in sacreBLEU, 0 without a single match, and where no segment is four words long.
    return np.where((correct[..., 0] > 0) & (total > 0).all(axis=-1), score, 0.0)


def chrf(sums: Floats) -> Floats:
    """chrF2: the mean of the F scores, with recall weighted twice, over all orders of n-grams that occur.

    :param sums: `[..., 18]`, three for each order.
    """
    counts = sums.reshape(*sums.shape[:-1], 6, 3)
    written, wanted, matched = counts[..., 0], counts[..., 1], counts[..., 2]
    occurs = (written > 0) & (wanted > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(occurs, matched / written, 0.0)
        recall = np.where(occurs, matched / wanted, 0.0)
        orders = occurs.sum(axis=-1)
        precision, recall = (value.sum(axis=-1) / orders for value in (precision, recall))
        score = 100.0 * 5.0 * precision * recall / (4.0 * precision + recall)
    return np.where((orders > 0) & (precision + recall > 0), score, 0.0)


def _sacrebleu(metric: Any, rows: Sequence[Hypothesis]) -> Floats:
    """sacreBLEU's own counts, from whose sums it computes corpus scores and resampled scores."""
    return np.array(metric._extract_corpus_statistics(_hypotheses(rows), [_references(rows)]), float)


def _jiwer() -> str:
    from importlib.metadata import version

    return version("jiwer")


def _references(rows: Sequence[Hypothesis]) -> list[str]:
    return [row.reference for row in rows]


def _hypotheses(rows: Sequence[Hypothesis]) -> list[str]:
    return [row.hypothesis for row in rows]
