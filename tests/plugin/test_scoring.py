"""Scores: counted by hand where a hand can count, and equal to jiwer's and sacreBLEU's where it cannot."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Literal

import jiwer
import pytest
import sacrebleu

from speechllm_plugin.errors import UserError
from speechllm_plugin.scoring.bootstrap import rate_interval
from speechllm_plugin.scoring.normalizers import get_normalizer
from speechllm_plugin.scoring.provenance import provenance
from speechllm_plugin.scoring.report import (
    Hypothesis,
    is_looping,
    read_hypotheses,
    score,
    write_hypotheses,
    write_scores,
)
from speechllm_plugin.scoring.scripts import bleu_tokenizer, has_spaces
from speechllm_plugin.scoring.table import format_table
from speechllm_plugin.scoring.translation import translation_scores
from speechllm_plugin.scoring.wer import WerResult, word_errors

ROW = Hypothesis("a", "turn on the light", "turn on light", "a.wav", 1.5, "en", "en")

GERMAN = ["Der Hund läuft schnell durch den großen Park.", "Heute ist das Wetter sehr schön in Berlin."]
GERMAN_HEARD = ["Der Hund läuft durch den großen Park.", "Heute ist das Wetter schön in Berlin."]


# --- normalisers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  World!\t", "hello world"),
        ("don't — it's the dogs' 'tis", "don't it's the dogs tis"),  # inside words only
        ("don\u2019t l\u02bceau", "don't l'eau"),  # the typographic apostrophe is the same word
        ("a well-known U.S. co_op", "a well known u s co op"),
        ("costs $5 + 3% ~ x^2 <b>", "costs 5 3 x 2 b"),  # symbols count as punctuation
        ("ＡＢＣ１２ ﬁne", "abc12 fine"),  # full width, ligature
        ("Füße ÄÖ", "füße äö"),
        ("cafe\u0301", "café"),  # composed and decomposed are the same
        ("हिन्दी, में।", "हिन्दी में"),  # vowel signs and virama are marks
        ("की'बात", "की'बात"),  # a word may end in a mark
        ("ภาษาไทย ที่นี่!", "ภาษาไทย ที่นี่"),  # so are Thai vowels and tones
        ("你好，世界。「是」", "你好 世界 是"),
        ("¿Qué? ¡No!", "qué no"),
        ("مرحبا، كيف؟", "مرحبا كيف"),
        ("zero\u200bwidth so\u00adft", "zerowidth soft"),  # invisible characters
        ("non\u00a0breaking\u3000wide", "non breaking wide"),
        ("'", ""),
        ("", ""),
    ],
)
def test_basic_removes_case_and_punctuation_in_any_script(text: str, expected: str) -> None:
    normalize = get_normalizer("basic")
    assert normalize(text) == expected
    assert normalize(expected) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", "Mr. Smith's um twenty-five [noise] dogs!"),
        ("basic", "mr smith's um twenty five noise dogs"),
        ("whisper_basic", "mr smith s um twenty five dogs"),
        ("whisper_english", "mister smith is 25 dogs"),
    ],
)
def test_each_name_is_its_own_normaliser(name: str, expected: str) -> None:
    assert get_normalizer(name)("Mr. Smith's  um twenty-five [noise] dogs!") == expected


def test_an_unknown_normaliser_is_named() -> None:
    with pytest.raises(UserError, match="found 'Basic', expected none, basic, whisper_english or whisper_basic"):
        get_normalizer("Basic")


# --- errors


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
    assert rate_interval([2], [0]) is None
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


# --- translation


def test_translation_scores_are_sacrebleus() -> None:
    result = translation_scores(GERMAN, GERMAN_HEARD, "de")
    assert result.bleu == sacrebleu.corpus_bleu(GERMAN_HEARD, [GERMAN]).score
    assert result.chrf == sacrebleu.corpus_chrf(GERMAN_HEARD, [GERMAN]).score
    assert 30 < result.bleu < 95
    version = f"version:{sacrebleu.__version__}"
    assert result.bleu_signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|{version}"
    assert result.chrf_signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|{version}"


@pytest.mark.parametrize(
    ("language", "tokenizer", "spaces"),
    [
        ("de", "13a", True),
        ("", "13a", True),  # not stated
        ("zh", "zh", False),
        ("zh-CN", "zh", False),
        ("cmn_hans_cn", "zh", False),  # FLEURS
        ("Chinese", "zh", False),
        ("ja", "char", False),
        ("th", "char", False),
        ("ko", "13a", True),  # Korean has spaces
    ],
)
def test_the_writing_system_chooses_unit_and_tokeniser(language: str, tokenizer: str, spaces: bool) -> None:
    assert bleu_tokenizer(language) == tokenizer
    assert has_spaces(language) is spaces


@pytest.mark.parametrize(
    ("language", "reference", "hypothesis", "tokenizer"),
    [
        ("zh", "今天天气非常好，我们去公园。", "今天天气很好，我们去公园。", "zh"),
        ("ja", "今日はとても良い天気ですね。", "今日は良い天気ですね。", "char"),
    ],
)
def test_languages_without_spaces_are_split_into_characters(
    language: str, reference: str, hypothesis: str, tokenizer: str
) -> None:
    result = translation_scores([reference], [hypothesis], language)
    assert result.bleu == sacrebleu.corpus_bleu([hypothesis], [[reference]], tokenize=tokenizer).score
    assert f"|tok:{tokenizer}|" in result.bleu_signature
    # As one word each, the sentences would share nothing.
    assert result.bleu > 30


def test_an_empty_translation_scores_nothing() -> None:
    result = translation_scores(GERMAN, ["", ""], "de")
    assert (result.bleu, result.chrf) == (0.0, 0.0)


def test_an_unknown_tokeniser_is_named() -> None:
    with pytest.raises(UserError, match="BLEU tokenizer: found 'moses', expected one of 13a, char"):
        translation_scores(GERMAN, GERMAN, "de", tokenizer="moses")


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
            "normalizer": "basic",
            "unit": "word",
            "errors": 5,
            "words": 8,
            "substitutions": 0,
            "deletions": 5,
            "insertions": 0,
            "wer": 0.625,
            # Two utterances, drawn twice: the first alone, both, or the second alone.
            "wer_low": 0.25,
            "wer_high": 1.0,
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

    # Each direction weighs the same, whatever its size.
    assert scores["directions"]["en-zh"]["bleu"] == pytest.approx(100.0)
    assert scores["st"]["bleu"] == (scores["directions"]["en-de"]["bleu"] + scores["directions"]["en-zh"]["bleu"]) / 2
    assert scores["st"]["chrf"] == (scores["directions"]["en-de"]["chrf"] + scores["directions"]["en-zh"]["chrf"]) / 2
    assert "tok:13a" in scores["st"]["bleu_signature"]
    assert "tok:zh" in scores["st"]["bleu_signature"]


def test_languages_with_one_unit_are_pooled_in_it() -> None:
    scores = score([ROW, replace(ROW, id="b", src_lang="fr", tgt_lang="fr", hypothesis=ROW.reference)])
    assert (scores["asr"]["unit"], scores["asr"]["wer"]) == ("word", 0.125)


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


def test_wide_characters_take_two_cells() -> None:
    table = format_table([replace(ROW, reference="你好世界是的", hypothesis="xyz")], 1, width=13)
    assert table.splitlines()[2:5] == ["你好  | xyz", "世界  |", "是的  |"]


# --- provenance


class Precision(Enum):
    HALF = 1


@dataclass
class Config:
    rate: float
    folder: Path
    precision: Precision
    hook: Callable[[], None] | None
    kind: Literal["a", "b"]


def test_provenance_names_versions_data_and_configuration(tmp_path: Path) -> None:
    manifest = tmp_path / "m.tsv"
    manifest.write_bytes(b"manifest")
    checkpoint = tmp_path / "step_10"
    (checkpoint / "model").mkdir(parents=True)
    (checkpoint / "model" / "x.safetensors").write_bytes(b"weights")
    (checkpoint / "config.yaml").write_bytes(b"a: 1")
    config = Config(0.1, Path("data"), Precision.HALF, lambda: None, "a")

    result = provenance(config, checkpoint, [manifest])

    assert json.loads(json.dumps(result)) == result
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", result["date_utc"])
    assert result["versions"]["sacrebleu"] == sacrebleu.__version__
    assert set(result["versions"]) >= {"python", "torch", "fairseq2", "transformers", "speechllm-plugin"}
    assert result["config"] == {
        "rate": 0.1,
        "folder": "data",
        "precision": "HALF",
        "hook": "function",  # its address would differ from run to run
        "kind": "a",
    }
    assert result["manifests"] == [{"path": str(manifest), "sha256": hashlib.sha256(b"manifest").hexdigest()}]
    assert result["checkpoint"] == {
        "path": str(checkpoint),
        "sha256": {
            "config.yaml": hashlib.sha256(b"a: 1").hexdigest(),
            "model/x.safetensors": hashlib.sha256(b"weights").hexdigest(),
        },
    }


def test_provenance_knows_the_commit_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    copy = tmp_path / "provenance.py"
    monkeypatch.setattr("speechllm_plugin.scoring.provenance.__file__", str(copy))
    # As a hook would set it.
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    copy.write_text("one")
    assert provenance(None, None, [])["git"] is None
    monkeypatch.delenv("GIT_DIR")
    git("init", "--quiet")
    (tmp_path / "other.py").touch()
    git("add", "other.py")
    git("commit", "--quiet", "-m", "other")
    # In a checkout, but no part of it, as in a virtual environment inside someone's project.
    assert provenance(None, None, [])["git"] is None
    git("add", "provenance.py")
    git("commit", "--quiet", "-m", "one")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    found = provenance(None, None, [])["git"]
    monkeypatch.delenv("GIT_DIR")
    assert found == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    copy.write_text("two")
    assert provenance(None, None, [])["git"]["dirty"] is True


@pytest.mark.parametrize("missing", ["checkpoint", "manifest"])
def test_provenance_of_missing_files_is_an_error(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "none"
    with pytest.raises(UserError, match="none: cannot be read"):
        provenance(None, path if missing == "checkpoint" else None, [path] if missing == "manifest" else [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: found an empty folder, expected a checkpoint"):
        provenance(None, tmp_path / "empty", [])
