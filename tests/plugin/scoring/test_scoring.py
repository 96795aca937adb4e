"""Hypothesis files, the reports that score them, and the table that shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sacrebleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from speechllm_plugin.errors import UserError
from speechllm_plugin.scoring.report import (
    Hypothesis,
    is_looping,
    read_hypotheses,
    score,
    write_hypotheses,
    write_scores,
)
from speechllm_plugin.scoring.table import format_table, format_wer
from tests.plugin.scoring_rows import GERMAN, GERMAN_HEARD, ROW

# --- hypothesis files


def test_hypotheses_survive_a_round_trip(tmp_path: Path) -> None:
    rows = [ROW, Hypothesis("b", "", 'a "b" \\n ü', "x.zip:1:2", 0.0, "", "")]
    write_hypotheses(tmp_path / "run" / "h.tsv", rows)
    assert read_hypotheses(tmp_path / "run" / "h.tsv") == rows


def test_line_ends_in_a_hypothesis_stay_in_its_row(tmp_path: Path) -> None:
    write_hypotheses(tmp_path / "h.tsv", [replace(ROW, hypothesis="a\nb\tc\r")])
    assert read_hypotheses(tmp_path / "h.tsv")[0].hypothesis == "a b c "


@pytest.mark.parametrize("value", ["", "x", "-1", "nan", "inf"])
def test_a_wrong_duration_is_named(tmp_path: Path, value: str) -> None:
    path = tmp_path / "h.tsv"
    write_hypotheses(path, [ROW])
    path.write_text(path.read_text().replace("1.500", value))
    with pytest.raises(UserError) as caught:
        read_hypotheses(path)
    assert str(caught.value) == f"{path}, line 2, column 'duration': found {value!r}, expected seconds"


def test_a_hypothesis_file_without_a_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "h.tsv").write_text("id\treference\n")
    with pytest.raises(UserError, match="line 1: found columns 'id', 'reference', expected also 'hypothesis'"):
        read_hypotheses(tmp_path / "h.tsv")


# --- reports


@pytest.mark.parametrize(
    ("source", "target", "translation", "direction"),
    [
        ("en", "en", False, "en"),
        ("en", "", False, "en"),
        ("", "", False, "und"),
        ("en", "de", True, "en-de"),
        ("", "de", True, "und-de"),
        ("en-GB", "EN", False, "en"),
        ("English", "eng", False, "en"),
        ("eng", "German", True, "en-de"),
        ("xx", "xx", False, "xx"),
    ],
)
def test_a_row_is_a_transcription_unless_the_languages_differ(
    source: str, target: str, translation: bool, direction: str
) -> None:
    row = replace(ROW, src_lang=source, tgt_lang=target)
    assert row.is_translation is translation
    assert row.direction == direction


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("thank you " * 20, True),
        ("ha" * 19, False),  # 38 bytes: too short to tell
        ("The quick brown fox jumps over the lazy dog while seven wizards mix potions in the old tower.", False),
        ("今天天气非常好我们一起去公园散步然后回家吃饭看书睡觉", False),  # three bytes a character, alike at the front
        ("", False),
    ],
)
def test_loops_are_told_by_compression(text: str, looping: bool) -> None:
    assert is_looping(text) is looping


def test_transcriptions_are_scored_by_errors() -> None:
    scores = score([ROW, replace(ROW, id="b", hypothesis="", duration=0.5)])
    assert scores == {
        "utterances": 2,
        "seconds": 2.0,
        "empty_hypotheses": 1,
        "looping_hypotheses": 0,
        "asr": {
            "utterances": 2,
            "empty_references": 0,
            "normalizer": "basic",
            "unit": "word",
            "errors": 5,
            "words": 8,
            "substitutions": 0,
            "deletions": 5,
            "insertions": 0,
            "wer": 0.625,
            # Two utterances tell nothing of the next two.
            "wer_low": None,
            "wer_high": None,
        },
    }


def test_the_normaliser_is_the_one_asked_for() -> None:
    rows = [replace(ROW, hypothesis="Turn on the light.")]
    assert score(rows)["asr"]["wer"] == 0.0
    strict = score(rows, "none")["asr"]
    assert (strict["wer"], strict["normalizer"]) == (0.5, "none")


def test_translations_are_scored_by_bleu_and_chrf() -> None:
    rows = [
        Hypothesis(str(index), reference, hypothesis, "x.wav", 1.0, "en", "de")
        for index, (reference, hypothesis) in enumerate(zip(GERMAN, GERMAN_HEARD, strict=True))
    ]
    scores = score(rows)
    assert scores["st"]["bleu"] == sacrebleu.corpus_bleu(GERMAN_HEARD, [GERMAN]).score
    assert scores["st"]["utterances"] == 2
    assert "tok:13a" in scores["st"]["bleu_signature"]
    assert "asr" not in scores
    assert "directions" not in scores


def test_mixed_rows_are_scored_by_direction_too() -> None:
    chinese = Hypothesis("z", "你好世界", "你好是界", "z.wav", 1.0, "zh", "zh")
    german = [
        Hypothesis(f"d{index}", reference, hypothesis, "x.wav", 1.0, "en", "de")
        for index, (reference, hypothesis) in enumerate(zip(GERMAN, GERMAN_HEARD, strict=True))
    ]
    to_chinese = Hypothesis("c", "今天天气非常好。", "今天天气非常好。", "c.wav", 1.0, "en", "zh")
    scores = score([ROW, chinese, *german, to_chinese, replace(ROW, id="l", hypothesis="la " * 60)])

    assert list(scores["directions"]) == ["en", "zh", "en-de", "en-zh"]
    assert scores["looping_hypotheses"] == 1
    english = scores["directions"]["en"]
    assert (english["utterances"], english["unit"], english["words"]) == (2, "word", 8)
    assert (scores["directions"]["zh"]["unit"], scores["directions"]["zh"]["wer"]) == ("char", 0.25)
    pooled = scores["asr"]
    assert (pooled["utterances"], pooled["unit"], pooled["words"]) == (3, "mixed", 12)
    assert pooled["wer"] == (english["errors"] + 1) / 12

    # In the mean each direction weighs the same, whatever its size.
    assert scores["directions"]["en-zh"]["bleu"] == pytest.approx(100.0)
    for name in ("bleu", "chrf"):
        assert scores["st"][f"{name}_mean"] == sum(scores["directions"][d][name] for d in ("en-de", "en-zh")) / 2
        assert f"{name}_mean" not in scores["directions"]["en-de"]
    # What has a corpus's signature is of one corpus; Chinese n-grams are of its own tokens.
    texts = [*GERMAN_HEARD, "今天天气非常好。"], [[*GERMAN, "今天天气非常好。"]]
    assert scores["st"]["chrf"] == sacrebleu.corpus_chrf(*texts).score
    tokenizers = [Tokenizer13a(), Tokenizer13a(), TokenizerZh()]
    heard, said = (
        [split(text) for split, text in zip(tokenizers, part, strict=True)] for part in (texts[0], texts[1][0])
    )
    expected = sacrebleu.corpus_bleu(heard, [said], tokenize="none", force=True).score
    assert scores["st"]["bleu"] == pytest.approx(expected)
    assert scores["st"]["bleu"] != pytest.approx(scores["st"]["bleu_mean"], abs=1)
    assert "tok:13a" in scores["st"]["bleu_signature"]
    assert "tok:zh" in scores["st"]["bleu_signature"]


def test_directions_of_one_tokeniser_are_scored_as_one_corpus() -> None:
    heard = [GERMAN[0], GERMAN_HEARD[1]]
    rows = [
        Hypothesis(str(index), reference, hypothesis, "x.wav", 1.0, source, "de")
        for index, (source, reference, hypothesis) in enumerate(zip(("en", "fr"), GERMAN, heard, strict=True))
    ]
    scores = score(rows)
    assert scores["st"]["bleu"] == pytest.approx(sacrebleu.corpus_bleu(heard, [GERMAN]).score)
    assert scores["st"]["bleu"] != pytest.approx(scores["st"]["bleu_mean"])
    assert scores["st"]["bleu_signature"] == scores["directions"]["fr-de"]["bleu_signature"]


def test_words_written_in_silence_are_counted_by_the_minute() -> None:
    """A quarter of a minute without speech in all, in which seven words were written, four of them in two languages."""
    quiet = replace(ROW, reference="", duration=5.0)
    rows = [
        ROW,
        replace(quiet, id="b", hypothesis="set a timer"),
        replace(quiet, id="c", reference="...", hypothesis="", duration=2.5),  # empty once normalised
        replace(quiet, id="d", hypothesis="你好", src_lang="zh", tgt_lang="zh", duration=2.5),
        replace(quiet, id="e", hypothesis="guten Tag!", tgt_lang="de"),
    ]
    scores = score(rows)
    assert scores["silence"] == {
        "clips": 4, "seconds": 15.0, "clips_with_words": 3, "words": 7, "words_per_minute": 28.0
    }
    english = scores["directions"]["en"]
    # As jiwer has it, what was made up is errors all the same.
    assert (english["empty_references"], english["insertions"], english["words"]) == (2, 3, 4)
    assert (scores["asr"]["empty_references"], scores["st"]["empty_references"]) == (3, 1)
    assert "silence" not in score([ROW])


def test_languages_with_one_unit_are_pooled_in_it() -> None:
    scores = score([ROW, replace(ROW, id="b", src_lang="fr", tgt_lang="fr", hypothesis=ROW.reference)])
    assert (scores["asr"]["unit"], scores["asr"]["wer"]) == ("word", 0.125)


def test_names_of_one_language_are_scored_together() -> None:
    rows = [replace(ROW, id=name, src_lang="en", tgt_lang=name) for name in ("en", "EN", "en-US", "eng", "English")]
    scores = score(rows)
    assert "st" not in scores and "directions" not in scores
    assert scores["asr"]["utterances"] == len(rows)


def test_a_language_without_spaces_is_scored_by_characters() -> None:
    row = replace(ROW, reference="今仔日天氣真好", hypothesis="今仔日天氣好", src_lang="nan-tw", tgt_lang="nan")
    scores = score([row])["asr"]
    assert (scores["unit"], scores["errors"], scores["words"]) == ("char", 1, 7)


def test_no_rows_are_no_score() -> None:
    with pytest.raises(UserError, match="found no hypotheses"):
        score([])


def test_a_score_file_is_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_scores(path, score([replace(ROW, reference="")]), {"note": "ü"})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["scores"]["asr"]["wer"] is None
    assert content["scores"]["asr"]["insertions"] == 3
    assert content["provenance"] == {"note": "ü"}


# --- table


def test_the_table_has_the_first_rows_within_its_width() -> None:
    long = "one two three four five six seven eight nine ten eleven twelve"
    rows = [replace(ROW, reference=long, hypothesis="short"), replace(ROW, hypothesis=""), ROW]
    table = format_table(rows, 2, width=41)
    assert table.splitlines() == [
        "reference           | hypothesis",
        "--------------------+-" + "-" * 19,
        "one two three four  | short",
        "five six seven      |",
        "eight nine ten      |",
        "eleven twelve       |",
        "--------------------+-" + "-" * 19,
        "turn on the light   | (empty)",
        "--------------------+-" + "-" * 19,
        "... and 1 more",
    ]


def test_a_rate_has_its_interval_or_says_that_there_is_none() -> None:
    rows = [replace(ROW, id=str(number)) for number in range(20)]
    assert format_wer(score(rows)["asr"]) == "25.0 [25.0, 25.0]"
    assert format_wer(score(rows[:19])["asr"], 2) == "25.00 [no interval]"


def test_wide_characters_take_two_cells() -> None:
    table = format_table([replace(ROW, reference="你好世界是的", hypothesis="xyz")], 1, width=13)
    assert table.splitlines()[2:5] == ["你好  | xyz", "世界  |", "是的  |"]
