"""The alignment against an exhaustive search, and segments of words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch

from speechllm_plugin.alignment.forced import forced_alignment, lengthen, sounding
from speechllm_plugin.alignment.timed_text import Timed
from speechllm_plugin.alignment.vectors import match_in_order
from speechllm_plugin.alignment.words import LONGEST, PAUSE, interpolate, segment

RATE = 16000


def spelling(path: Sequence[int]) -> list[int]:
    """What CTC reads: runs of equal labels are one, blanks none."""
    return [label for label, _ in itertools.groupby(path) if label != 0]


def spans_of(path: Sequence[int]) -> list[tuple[int, int]]:
    spans, place = [], 0
    for label, run in itertools.groupby(path):
        length = len(list(run))
        if label != 0:
            spans.append((place, place + length))
        place += length
    return spans


@pytest.mark.parametrize(
    "labels",
    [[1], [1, 2], [1, 1], [2, 1, 2], [1, 1, 2], [2, 2, 2]],
    ids=["one", "two", "equal_neighbours", "no_skip_needed", "mixed", "a_frame_for_each_state"],
)
@pytest.mark.parametrize("silent", [(), (1, 3)], ids=["sound", "silence"])
def test_the_best_of_all_ways(labels: list[int], silent: tuple[int, ...]) -> None:
    logits = 3 * torch.randn(6, 3, generator=torch.Generator().manual_seed(len(labels) + sum(labels)))
    logits[:, 0] -= 5  # blanks only where they must be
    sound = torch.tensor([t not in silent for t in range(6)])

    def score(path: Sequence[int]) -> float:
        return sum(float(logits[t, label]) - 1e6 * (label != 0 and t in silent) for t, label in enumerate(path))

    ways = [path for path in itertools.product(range(3), repeat=6) if spelling(path) == labels]
    assert forced_alignment(logits, labels, sound) == spans_of(max(ways, key=score))


def test_logits_that_say_it_all() -> None:
    path = [0, 0, 4, 4, 0, 0, 0, 4, 2, 2, 2, 0]
    logits = 9 * torch.nn.functional.one_hot(torch.tensor(path), 5).float()
    sound = torch.ones(12, dtype=torch.bool)
    assert forced_alignment(logits, [4, 4, 2], sound) == [(2, 4), (7, 8), (8, 11)]


@pytest.mark.parametrize("labels", [[], [1, 2, 1, 2], [1, 1, 2]], ids=["none", "too_many", "equal_neighbours"])
def test_labels_that_do_not_fit(labels: list[int]) -> None:
    assert forced_alignment(torch.zeros(3, 3), labels, torch.ones(3, dtype=torch.bool)) is None


def test_sounding_is_relative_to_the_loudest_frame() -> None:
    amplitudes = torch.tensor([0.0, 0.5, 0.006, 0.004, 0.05])  # -38 dB sounds, -42 dB does not
    waveform = amplitudes.repeat_interleave(640)[:-100]
    for scale in (1.0, 1e-3):
        assert sounding(scale * waveform, 5, 25.0).tolist() == [False, True, True, False, True]


def test_spans_go_on_while_there_is_sound() -> None:
    sound = [True, True, True, False, True, True, True, True, True, True]
    spans = [(0, 1), (4, 5), (6, 7)]
    assert lengthen(spans, sound, 2) == [(0, 3), (4, 6), (6, 9)]
    assert lengthen(spans, sound, 0) == spans




def test_a_vector_a_token() -> None:
    assert match_in_order(3, [0, 4, 9], [5, 10, 12]) == [(0, 4), (4, 9), (9, 12)]


def test_other_numbers_are_matched_in_proportion() -> None:
    assert match_in_order(2, [0, 10, 20, 30], [10, 20, 30, 40]) == [(0, 20), (20, 40)]
    assert match_in_order(4, [0, 10], [10, 40]) == [(0, 5), (5, 10), (10, 25), (25, 40)]




def test_words_without_a_time_lie_between_their_neighbours() -> None:
    assert interpolate([None, (1.0, 2.0), None, None, (3.0, 3.5), None], 4.0) == [
        (0.0, 1.0), (1.0, 2.0), (2.0, 2.5), (2.5, 3.0), (3.0, 3.5), (3.5, 4.0)
    ]
    assert interpolate([None, None], 3.0) == [(0.0, 1.5), (1.5, 3.0)]


def words_of(text: str, times: Sequence[tuple[float, float]]) -> tuple[list[Timed], list[tuple[int, int]]]:
    units, place = [], 0
    for word in text.split():
        start = text.index(word, place)
        place = start + len(word)
        units.append((start, place))
    return [Timed(text[a:b], *time) for (a, b), time in zip(units, times, strict=True)], units


def test_segments_end_at_pauses_and_sentences() -> None:
    text = 'yes  sir. he said "no." then 3.5 more'
    times = [(0, 1), (1, 2), (2, 3), (3.5, 4), (4, 5), (5, 6), (6.6, 7), (7, 8)]
    assert segment(text, *words_of(text, times)) == [
        Timed("yes  sir.", 0, 2), Timed('he said "no."', 2, 5), Timed("then", 5, 6), Timed("3.5 more", 6.6, 8)
    ]
    assert PAUSE == 0.5


def test_segments_have_a_longest() -> None:
    text = "one two three four"
    times = [(0, 4), (4, 8), (8, LONGEST + 0.1), (LONGEST + 0.1, 14)]
    assert [part.text for part in segment(text, *words_of(text, times))] == ["one two", "three four"]


# --- the whole, on a model
