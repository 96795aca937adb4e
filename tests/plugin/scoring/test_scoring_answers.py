"""Answers: SQuAD's exact match and F1, refusals."""

from __future__ import annotations

import pytest

from speechllm_plugin.scoring.answers import exact_match, is_refusal, token_f1


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("The Denver Broncos!", "denver broncos", True, 1.0),
        ("A broncos' game", "the Broncos", False, 2 / 3),
        ("Broncos Broncos", "Broncos", False, 2 / 3),  # a word counts as often as both have it
        ("Paris", "London", False, 0.0),
        ("", "London", False, 0.0),
        ("the", "a", True, 1.0),  # nothing is left of either
        ("theatre", "atre", False, 0.0),  # articles are whole words
    ],
)
def test_squads_measures(answer: str, reference: str, exact: bool, f1: float) -> None:
    assert exact_match(answer, [reference]) is exact
    assert token_f1(answer, [reference]) == pytest.approx(f1)


def test_of_several_answers_the_nearest_counts() -> None:
    right = ["1992", "In the year 1992", "1990s"]
    assert exact_match("In the year 1992.", right) is True and exact_match("In the year 1992.", right[:1]) is False
    assert token_f1("the year 1992", right) == pytest.approx(4 / 5)  # of "in year 1992"
    assert token_f1("the year 1992", right[:1]) == pytest.approx(2 / 3)


def test_characters_count_where_words_have_no_spaces() -> None:
    assert token_f1("東京都", ["東京"], "ja") == pytest.approx(4 / 5)


def test_refusals_stand_at_the_beginning() -> None:
    for text in ("I\u2019m sorry, but I can't help with that.", "As an AI language model, I have no body.",
                 "I am unable to do this.", "Sorry. Unfortunately, I cannot say.", "I don't know."):
        assert is_refusal(text), text
    for text in ("Paris.", "You can't miss it: turn left.", "She was sorry.", "word " * 40 + "I'm sorry.",
                 "", "I can help with that."):
        assert not is_refusal(text), text
