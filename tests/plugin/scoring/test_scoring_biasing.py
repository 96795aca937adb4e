"""WER, B-WER and U-WER, by lists of phrases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from speechllm_plugin.errors import UserError
from speechllm_plugin.scoring.biasing import PhraseIndex, biased_errors
from speechllm_plugin.scoring.phrase_lists import rare_words, read_authors_lists, read_phrase_lists
from speechllm_plugin.scoring.report import Hypothesis
from speechllm_plugin.scoring.segments import biased_statistics, error_statistics

LIST = ["Montrose", "skirmishes", "New York", "worsted"]


def counted(reference: str, hypothesis: str, phrases: list[str] = LIST) -> list[int]:
    index = PhraseIndex(phrases, "basic")
    return [int(count) for count in biased_errors([reference], [hypothesis], [index])[0]]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        # Errors and words of the list, then of the others.
        ("allowed Montrose to escape", "allowed montrose to escape", [0, 1, 0, 3]),
        ("allowed Montrose to escape", "allowed monrose to scape", [1, 1, 1, 3]),
        ("some skirmishes", "some", [1, 1, 0, 1]),
        ("he escaped", "he escaped worsted today", [1, 0, 1, 2]),
        # Words of a phrase count where the phrase stands, and nowhere else.
        ("the new house in New York", "the nu house in New Yolk", [1, 2, 1, 4]),
        ("it is new", "it is new york new york", [3, 0, 0, 3]),
        ("", "montrose is", [1, 0, 1, 0]),
        ("montrose is", "", [1, 1, 1, 1]),
        ("don't, Montrose!", "DON'T MONTROSE", [0, 1, 0, 1]),
    ],
)  # fmt: skip
def test_errors_are_counted_by_the_word(reference: str, hypothesis: str, expected: list[int]) -> None:
    assert counted(reference, hypothesis) == expected


def test_both_rates_together_are_the_word_error_rate() -> None:
    generator = np.random.default_rng(0)
    words = ["montrose", "skirmishes", "new", "york", "the", "in", "he", "worsted"]
    texts = [" ".join(generator.choice(words, generator.integers(0, 9))) for _ in range(80)]
    rows = [Hypothesis(str(i), texts[2 * i], texts[2 * i + 1], "", 1.0, "en", "en") for i in range(40)]
    index = [PhraseIndex(LIST, "basic")] * len(rows)
    counts = biased_errors([row.reference for row in rows], [row.hypothesis for row in rows], index)
    expected = error_statistics(rows, "basic").counts
    assert np.array_equal(counts[:, :2] + counts[:, 2:], expected)
    assert counts[:, 0].sum() > 20 and counts[:, 2].sum() > 20


def test_languages_without_spaces_count_characters() -> None:
    index = PhraseIndex(["東京"], "basic", "char", "ja")
    assert biased_errors(["私は東京にいる"], ["私は京都にいる"], [index]).tolist() == [[2, 2, 0, 5]]
    assert index.found_in("私は東京にいる") == ["東京"]


def test_lists_are_read_for_all_rows_or_each_row(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("Montrose\n\nNew  York\nMontrose\n")
    assert read_phrase_lists(tmp_path / "list.txt").of("any") == ("Montrose", "New York")
    (tmp_path / "m.tsv").write_text("id\taudio\tcontext\na\ta.wav\tMontrose, New York\nb\tb.wav\t\n")
    rows = [Hypothesis(name, "he was in new york", "he was in montrose", "", 1.0, "en", "en") for name in ("a", "b")]
    lists = read_phrase_lists(tmp_path / "m.tsv")
    assert biased_statistics(rows, "basic", lists, in_list=True).counts.tolist() == [[2, 2], [0, 0]]
    assert biased_statistics(rows, "basic", lists, in_list=False).counts.tolist() == [[0, 3], [2, 5]]
    with pytest.raises(UserError, match="m.tsv: found no row of the id 'c'"):
        lists.of("c")
    # The layout of the files of arXiv 2104.02194's authors.
    own, every = json.dumps(["mated"]), json.dumps(["atherton", "mated"])
    (tmp_path / "authors.tsv").write_text(f"1-2-3\tthe air is mated\t{own}\t{every}\n")
    assert read_phrase_lists(tmp_path / "authors.tsv").of("1-2-3") == ("mated",)
    assert read_authors_lists(tmp_path / "authors.tsv") == {"1-2-3": ("atherton", "mated")}
    assert read_authors_lists(tmp_path / "list.txt") is None
    (tmp_path / "comma.txt").write_text("Paris\nSmith, John\n")
    with pytest.raises(UserError, match="line 2: found 'Smith, John', expected a phrase without a comma"):
        read_phrase_lists(tmp_path / "comma.txt")


def test_rare_words_are_all_but_the_most_frequent() -> None:
    assert rare_words(["The cat, the dog", "the cat and Montrose"], common=2) == ("and", "dog", "montrose")
