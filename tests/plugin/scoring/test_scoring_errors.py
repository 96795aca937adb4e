"""Error rates: counted by hand where a hand can count, and equal to jiwer's where it cannot."""

from __future__ import annotations

import math

import jiwer
import pytest

from speechllm_plugin.scoring.bootstrap import rate_interval
from speechllm_plugin.scoring.translation import translation_scores
from speechllm_plugin.scoring.wer import WerResult, word_errors


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [
        ("a b c d", "a b c d", (0, 4, 0, 0, 0)),
        ("a b c d", "a x c", (2, 4, 1, 1, 0)),
        ("a b", "a b c d e", (3, 2, 0, 0, 3)),  # above 100 %
        ("a b c", "", (3, 3, 0, 3, 0)),  # an empty hypothesis costs everything
        ("", "a b", (2, 0, 0, 0, 2)),  # an empty reference counts what was made up
        ("?!", "...", (0, 0, 0, 0, 0)),  # empty after normalisation
        ("A, b.", "a B", (0, 2, 0, 0, 0)),
    ],
)
def test_errors_are_those_counted_by_hand(reference: str, hypothesis: str, counts: tuple[int, ...]) -> None:
    result = word_errors([reference], [hypothesis])
    assert (result.errors, result.words, result.substitutions, result.deletions, result.insertions) == counts


def test_the_rate_is_total_errors_over_total_words() -> None:
    # 1 error in 1 word and 0 in 9: the mean of the rates would be 50 %.
    result = word_errors(["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"])
    assert result == WerResult(1, 10, substitutions=1, deletions=0, insertions=0, wer=0.1, utterance_errors=[1, 0],
                               utterance_words=[1, 9])


def test_a_corpus_with_empty_references_counts_their_insertions() -> None:
    assert word_errors(["a b", ""], ["a b", "x"]).wer == 0.5


def test_without_reference_words_the_rate_is_zero_or_infinite() -> None:
    assert word_errors([""], [""]).wer == 0.0
    assert word_errors([""], ["a"]).wer == math.inf
    assert word_errors([], []).wer == 0.0


def test_characters_count_without_spaces() -> None:
    result = word_errors(["你好 世界"], ["你好是界人"], unit="char")
    assert result == WerResult(2, 4, substitutions=1, deletions=0, insertions=1, wer=0.5, utterance_errors=[2],
                               utterance_words=[4])


def test_counts_of_utterances_add_up() -> None:
    references = ["a b c", "", "d e", "f", "g h i j"]
    hypotheses = ["a x c", "y", "e", "f f f", "k l"]
    result = word_errors(references, hypotheses)
    alone = [word_errors([one], [other]) for one, other in zip(references, hypotheses, strict=True)]
    assert result.utterance_errors == [one.errors for one in alone] == [1, 1, 1, 2, 4]
    assert result.utterance_words == [one.words for one in alone] == [3, 0, 2, 1, 4]
    assert sum(result.utterance_errors) == result.errors


def test_the_interval_is_that_of_resampled_utterances() -> None:
    # Every utterance alike: nothing to be uncertain about.
    assert rate_interval([1] * 50, [10] * 50) == (0.1, 0.1)
    assert rate_interval([], []) is None
    assert rate_interval([2] * 50, [0] * 50) is None
    # Of so few, what was drawn again holds the truth too seldom.
    assert rate_interval([1] * 19, [10] * 19) is None
    assert rate_interval([1] * 20, [10] * 20) == (0.1, 0.1)
    # One word each, 20 % wrong: the binomial's interval, 1.96 * sqrt(0.2 * 0.8 / 400) wide on each side.
    low, high = rate_interval([1, 0, 0, 0, 0] * 80, [1] * 400) or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.2 - 0.0392, 0.2 + 0.0392), abs=0.006)
    # Ten errors at once are less certain than ten apart.
    together = rate_interval([10] + [0] * 99, [10] * 100) or (0.0, 0.0)
    apart = rate_interval([1] * 10 + [0] * 90, [10] * 100) or (0.0, 0.0)
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_unequal_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many, but are 2 and 1"):
        word_errors(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="equally many, but are 2 and 1"):
        translation_scores(["a", "b"], ["a"], "de")


def test_errors_are_jiwers() -> None:
    references = ["the quick brown fox jumps over the lazy dog", "she sells sea shells", "how much wood"]
    hypotheses = ["a quick brown fox jump over lazy dog now", "he sells c shells by the shore", "how much"]
    assert word_errors(references, hypotheses, "none").wer == jiwer.wer(references, hypotheses)
