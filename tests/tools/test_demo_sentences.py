"""The grammar of the demo's domain."""

from __future__ import annotations

import re

import pytest
from speechllm_tools.demo.sentences import FRAMES, make_sentences

from speechllm_plugin.errors import UserError

COUNTS = {"test": 100, "dev": 50, "train": 4000}


def bare(sentence: str) -> str:
    """The request without the courtesies around it."""
    for frame in sorted(FRAMES, key=len, reverse=True):
        before, after = frame.split("{}")
        if before + after and sentence.startswith(before) and sentence.endswith(after):
            return sentence[len(before) : len(sentence) - len(after)]
    return sentence


def test_a_seed_gives_the_same_sentences_and_another_seed_others() -> None:
    assert make_sentences(3, COUNTS) == make_sentences(3, COUNTS)
    assert make_sentences(3, COUNTS)["test"] != make_sentences(4, COUNTS)["test"]


def test_no_request_occurs_twice_whatever_the_courtesies() -> None:
    splits = make_sentences(1, COUNTS)
    assert {split: len(sentences) for split, sentences in splits.items()} == COUNTS
    requests = [bare(sentence) for sentences in splits.values() for sentence in sentences]
    assert len(set(requests)) == sum(COUNTS.values())
    # The courtesies do occur, so that the line above says more than that the sentences differ.
    assert requests != [sentence for sentences in splits.values() for sentence in sentences]


def test_the_first_splits_do_not_depend_on_the_size_of_training() -> None:
    small, large = make_sentences(1, {"test": 30, "train": 10}), make_sentences(1, {"test": 30, "train": 1000})
    assert small["test"] == large["test"]
    assert small["train"] == large["train"][:10]


def test_sentences_are_plain_lower_case_words_of_a_small_vocabulary_that_training_covers() -> None:
    splits = make_sentences(1, COUNTS)
    sentences = [sentence for split in splits.values() for sentence in split]
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)+", sentence) for sentence in sentences)
    vocabulary = {word for sentence in splits["train"] for word in sentence.split()}
    assert 200 <= len(vocabulary) <= 280
    assert {word for sentence in sentences for word in sentence.split()} == vocabulary


def test_nothing_is_asked_of_itself() -> None:
    for sentence in make_sentences(1, COUNTS)["train"]:
        match = re.search(r"from (.+?) to (.+?)( by train| please)?$", sentence)
        assert match is None or match[1] != match[2]


def test_more_than_the_grammar_can_make_is_an_error() -> None:
    with pytest.raises(UserError, match=r"1000000 sentences asked for, only \d+ could be made"):
        make_sentences(1, {"train": 1_000_000})
