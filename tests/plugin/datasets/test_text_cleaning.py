"""What references hold beside words: told with counts, and taken out where that is asked for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import get_args

import pytest

from speechllm_plugin.datasets.manifest import read_manifest
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.datasets.text_cleaning import CleanText, clean
from speechllm_plugin.errors import UserError
from speechllm_plugin.scoring.normalizers import normalize_basic


@pytest.mark.parametrize(
    ("text", "entities", "marks"),
    [
        ("I don&apos;t &amp; won&#39;t", "I don't & won't", "I don&apos;t &amp; won&#39;t"),
        ("[laughter] well (%HESITATION) yes <unk>", "[laughter] well (%HESITATION) yes <unk>", "well yes"),
        ("&lt;unk&gt; yes", "<unk> yes", "&lt;unk&gt; yes"),
        ("it&amp;#39;s", "it's", "it&amp;#39;s"),
        ("[laughter-yeah] [a [b]] %HESITATION 5 % of", "[laughter-yeah] [a [b]] %HESITATION 5 % of", "yeah 5 % of"),
        ("(Applause) (Lachen) so", "(Applause) (Lachen) so", "so"),
        ("SPEAKER_01: th- the door {breath}", "SPEAKER_01: th- the door {breath}", "the door"),
        ("so\u00adft\u200b \u200fwords", "so\u00adft\u200b \u200fwords", "soft words"),
        # These are words, and signs of a language.
        ("R&D; AT&T; fish & chips", "R&D; AT&T; fish & chips", "R&D; AT&T; fish & chips"),
        ("well-known (or so) 3 < 4 at 5: go", "well-known (or so) 3 < 4 at 5: go", "well-known (or so) 3 < 4 at 5: go"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
         "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("two  blanks ", "two  blanks ", "two  blanks "),
    ],
)  # fmt: skip
def test_each_mode_takes_out_its_kinds(text: str, entities: str, marks: str) -> None:
    assert clean(text, "none") == text
    assert clean(text, "entities") == entities
    assert clean(text, "marks") == marks
    assert clean(text, "all") == " ".join(clean(entities, "marks").split())


def save(folder: Path, *texts: str) -> Path:
    rows = [f"{number}\ta.wav\t{text}" for number, text in enumerate(texts)]
    (folder / "m.tsv").write_text("\n".join(["id\taudio\ttgt_text", *rows]) + "\n", encoding="utf-8")
    return folder / "m.tsv"


def test_a_manifest_tells_each_kind_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path, "plain words", "don&apos;t", "[noise] no", "[noise] it&apos;s", "two  blanks", "one behind ")
    with caplog.at_level(logging.INFO):
        assert [row.tgt_text for row in read_manifest(path)][1] == "don&apos;t"
        kept = [record.getMessage() for record in caplog.records]
        caplog.clear()
        rows = read_manifest(path, clean_text="all")
        taken = [record.getMessage() for record in caplog.records]
    key = "they are learnt and scored as they are, dataset.config_overrides.clean_text"
    assert kept == [
        f"{path}: found {what}; {key}={mode} takes them out"
        for what, mode in (
            ("entities of HTML in 2 of 6 texts, first in line 3: 'don&apos;t'", "entities"),
            ("marks of noises in 2 of 6 texts, first in line 4: '[noise] no'", "marks"),
            ("superfluous blanks in 2 of 6 texts, first in line 6: 'two  blanks'", "all"),
        )
    ]
    assert [row.tgt_text for row in rows] == ["plain words", "don't", "no", "it's", "two blanks", "one behind"]
    assert len(taken) == 3
    assert taken[0] == (
        f"{path}: entities of HTML taken out of 2 of 6 texts, first in line 3: 'don&apos;t' (clean_text=all)"
    )


def test_a_text_of_marks_alone_is_silence_or_an_error(tmp_path: Path) -> None:
    path = save(tmp_path, "words", "[laughter]")
    message = r"line 3, column 'tgt_text': found '\[laughter\]', expected some text left by clean_text=marks"
    with pytest.raises(UserError, match=message):
        read_manifest(path, clean_text="marks")
    assert [row.tgt_text for row in read_manifest(path, clean_text="marks", empty_text=True)] == ["words", ""]


def test_a_zero_byte_in_a_text_is_an_error(tmp_path: Path) -> None:
    message = r"line 3, column 'tgt_text': found 'no\\x00thing', expected a text without U\+0000"
    with pytest.raises(UserError, match=message):
        read_manifest(save(tmp_path, "words", "no\0thing"))


def test_the_dataset_cleans_what_is_learnt_and_scored(tmp_path: Path) -> None:
    path = save(tmp_path, "I don&apos;t [noise]")
    texts = ("I don&apos;t [noise]", "I don't [noise]", "I don&apos;t", "I don't")
    for mode, expected in zip(get_args(CleanText), texts, strict=True):
        config = SpeechTextConfig(manifests={"t": str(path)}, clean_text=mode)
        (utterance,) = SpeechTextDataset(config).read("t")
        assert utterance.row.tgt_text == expected


def test_a_sign_that_normalisation_drops_takes_its_variation_selector_along() -> None:
    assert normalize_basic("love \u2764\ufe0f it\u2764\ufe0f") == "love it"
    assert normalize_basic("Shop\u2122\ufe0f") == normalize_basic("shoptm")
