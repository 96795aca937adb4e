"""The texts of pieces become that of the recording: no word twice, and none lost."""

from __future__ import annotations

import pytest

from speechllm_plugin.alignment.timed_text import Timed
from speechllm_plugin.recordings.transcript import PieceText, join

TEXT = "we will now look at the second half of the year and see what it brought us"
SAID = TEXT.split()
"""One word each half second."""


def heard(
    start: float, end: float, shared: float, text: str, *, timed: bool, edges: tuple[str, str] = ("", "")
) -> PieceText:
    """A piece with words that begin at their half seconds, and what cut words at its edges became."""
    words = [Timed(word, start + 0.5 * i, start + 0.5 * (i + 1)) for i, word in enumerate(text.split())]
    if edges[0]:
        words = [Timed(edges[0], start, start + 0.1), *words]
    if edges[1]:
        words = [*words, Timed(edges[1], end - 0.1, end)]
    whole = Timed(" ".join(word.text for word in words), start, end)
    return PieceText(start, end, shared, (whole,) if words else (), tuple(words) if timed else None, placed=1.0)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("edges", [("", ""), ("'alf", "ye"), ("the", "the")])
def test_words_that_two_pieces_share_are_kept_once(timed: bool, edges: tuple[str, str]) -> None:
    pieces = [
        heard(0, 5, 0, " ".join(SAID[:10]), timed=timed, edges=("", edges[1])),
        heard(3, 8.5, 2, " ".join(SAID[6:]), timed=timed, edges=(edges[0], "")),
    ]
    transcript = join(pieces, 9.0, spaces=True)
    assert transcript.text == " ".join(SAID)
    assert [segment.text for segment in transcript.segments] == [" ".join(SAID[:10]), " ".join(SAID[10:])]
    if timed:
        assert transcript.words is not None
        assert [(word.text, word.start) for word in transcript.words] == [(w, 0.5 * i) for i, w in enumerate(SAID)]


def test_case_and_punctuation_do_not_hide_that_a_word_is_the_same() -> None:
    pieces = [
        heard(0, 5, 0, "We will now look at the second half.", timed=True),
        heard(3, 8.5, 2, "then Second half, of the year", timed=True),
    ]
    assert join(pieces, 9.0, spaces=True).text == "We will now look at the second half. of the year"


def test_texts_with_nothing_in_common_meet_in_the_middle() -> None:
    pieces = [heard(0, 4, 0, "a b c d e f g h", timed=True), heard(2, 6, 2, "s t u v w x y z", timed=True)]
    assert join(pieces, 6.0, spaces=True).text == "a b c d e f u v w x y z"


def test_a_word_said_again_after_a_pause_is_said_twice() -> None:
    pieces = [heard(0, 2, 0, "no no", timed=True), heard(3, 5, 0, "no no", timed=True)]
    assert join(pieces, 5.0, spaces=True).text == "no no no no"


def test_a_piece_without_words_leaves_no_trace() -> None:
    pieces = [heard(0, 4, 0, "a b", timed=True), heard(2, 6, 2, "", timed=True), heard(7, 8, 0, "c", timed=True)]
    transcript = join(pieces, 8.0, spaces=True)
    assert transcript.text == "a b c" and len(transcript.segments) == 2
    nothing = join([], 3.0, spaces=True)
    assert (nothing.text, nothing.segments, nothing.words) == ("", (), None)


def test_a_language_without_spaces_gets_none() -> None:
    def piece(start: float, end: float, shared: float, text: str) -> PieceText:
        return PieceText(start, end, shared, (Timed(text, start, end),), None)

    pieces = [piece(0, 5, 0, "今天天气很好"), piece(3, 8, 2, "很好我们去公园"), piece(9, 11, 0, "好吗")]
    assert join(pieces, 11.0, spaces=False).text == "今天天气很好我们去公园好吗"
