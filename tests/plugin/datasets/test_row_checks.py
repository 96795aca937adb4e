"""What is wrong with a row is told before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.row_checks import check_languages, check_n_frames
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.datasets.utterances import Utterances
from speechllm_plugin.errors import UserError
from speechllm_plugin.prompts import SPEECH, PromptConfig
from speechllm_plugin.text.languages import language_name

SECONDS = (0.6, 1.0, 3.0)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for seconds in SECONDS:
        soundfile.write(tmp_path / f"{seconds}.wav", np.full(round(16000 * seconds), 0.1), 16000)
    return tmp_path


def rows_of(folder: Path, columns: str, *rows: str, **config: Any) -> Utterances:
    """:param columns: beside `id`, `audio` and `tgt_text`, by spaces; so are the fields of the rows."""
    file = folder / "rows.tsv"
    lines = ["id\taudio\ttgt_text\t" + columns.replace(" ", "\t")]
    for i, row in enumerate(rows):
        audio, *fields = row.split(" ")
        lines.append("\t".join([f"c{i}", audio, "hello", *fields]))
    file.write_text("\n".join(lines) + "\n")
    return SpeechTextDataset(SpeechTextConfig(manifests={"all": str(file)}, **config)).read("all")


def error_of(utterances: Utterances, prompt: PromptConfig) -> str:
    with pytest.raises(UserError) as caught:
        check_languages(utterances, lambda row: prompt.named_in(*row.asked), language_name)
    return str(caught.value)


def test_a_language_without_a_name_is_told_with_its_row_and_column(clips: Path) -> None:
    rows = ("1.0.wav en en", "1.0.wav en de", "1.0.wav xx en", "1.0.wav en yy", "1.0.wav yy yy")
    utterances = rows_of(clips, "src_lang tgt_lang", *rows)
    where = f"{clips / 'rows.tsv'}, line"
    what = "expected a code of ISO 639 such as en, deu, pt-BR, or an English name"
    assert error_of(utterances, PromptConfig()) == f"{where} 4, id c2, column 'src_lang': found 'xx', {what}"
    only_target = PromptConfig(translate=f"into {{target}}: {SPEECH}", transcribe=f"write {SPEECH}")
    assert error_of(utterances, only_target) == f"{where} 5, id c3, column 'tgt_lang': found 'yy', {what}"
    silent, spoken = PromptConfig(translate=SPEECH, transcribe=SPEECH), PromptConfig()
    check_languages(utterances, lambda row: silent.named_in(*row.asked), language_name)
    check_languages(utterances[:2], lambda row: spoken.named_in(*row.asked), language_name)


def test_a_language_without_a_name_is_told_with_its_key(clips: Path) -> None:
    where = f"{clips / 'rows.tsv'}, line 2, id c0, dataset.config_overrides."
    utterances = rows_of(clips, "speaker", "1.0.wav anna", source_lang="xx")
    assert error_of(utterances, PromptConfig()).startswith(f"{where}source_lang: found 'xx'")
    utterances = rows_of(clips, "src_lang", "1.0.wav en", target_lang="xx")
    assert error_of(utterances, PromptConfig()).startswith(f"{where}target_lang: found 'xx'")
    answer = PromptConfig(answer=f"in {{target}}: {SPEECH}")
    assert error_of(rows_of(clips, "src_lang", "1.0.wav xx"), answer).startswith(f"{clips / 'rows.tsv'}, line 2, id c0,"
                                                                                  " column 'src_lang': found 'xx'")


def test_speech_without_a_language_is_english_and_that_is_said_once(
    clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows_of(clips, "src_lang", "1.0.wav en", "1.0.wav de")
    rows_of(clips, "speaker", "1.0.wav anna", source_lang="en")
    assert not caplog.messages
    files = {}
    for split in ("train", "dev"):
        files[split] = str(clips / f"{split}.tsv")
        Path(files[split]).write_text("id\taudio\ttgt_text\tsrc_lang\na\t1.0.wav\thi\t\nb\t1.0.wav\tho\tde\n")
    dataset = SpeechTextDataset(SpeechTextConfig(manifests={**files}))
    for split in ("train", "dev", "train"):
        assert [row.source_lang for row in dataset.read(split)] == ["en", "de"]
    (line,) = caplog.messages
    assert line.startswith(f"{files['train']}: 1 of 2 rows have no `src_lang`, so their speech is taken for English")
    assert "dataset.config_overrides.source_lang" in line


@pytest.mark.parametrize(
    ("unit", "per_second"), [("frames", 16000), ("samples", 100)], ids=["samples for frames", "frames for samples"]
)
def test_lengths_in_the_other_unit_are_told(clips: Path, unit: Any, per_second: int) -> None:
    stated = [f"{seconds}.wav {round(seconds * per_second)}" for seconds in SECONDS]
    utterances = rows_of(clips, "n_frames", *stated, "0.6.wav ", n_frames_unit=unit)
    with pytest.raises(UserError) as caught:
        check_n_frames(utterances)
    line = str(caught.value)
    assert line.startswith(f"{clips / 'rows.tsv'}, line ")
    assert "column 'n_frames': found a length of " in line and "but the audio lasts " in line
    assert "dataset.config_overrides.n_frames_unit=samples" in line
    # The reader asks before it blames a clip for being too long.
    options = ReadOptions(
        limits=BatchLimits(8, None), shuffle_seed=None, max_seconds=30.0, on_error="skip"
    )
    with pytest.raises(UserError, match="column 'n_frames'"):
        SpeechTextReader(utterances, options)


@pytest.mark.parametrize("per_second", [1000, 16000], ids=["milliseconds", "samples"])
def test_a_duration_in_another_unit_is_told(clips: Path, per_second: int) -> None:
    utterances = rows_of(clips, "duration", *[f"{seconds}.wav {round(seconds * per_second)}" for seconds in SECONDS])
    with pytest.raises(UserError, match=r"column 'duration': found a length of .* but the audio lasts .* expected sec"):
        check_n_frames(utterances)


def test_lengths_that_are_right_or_cannot_be_compared(clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [f"{seconds}.wav {round(100 * seconds) - 2}" for seconds in SECONDS]
    check_n_frames(rows_of(clips, "n_frames src_lang", *[f"{row} en" for row in frames]))
    # One row of many is that row's own affair; so is a file that is not there.
    check_n_frames(rows_of(clips, "n_frames src_lang", *[f"{row} en" for row in (*frames, "3.0.wav 48000")]))
    check_n_frames(rows_of(clips, "n_frames src_lang", "gone.wav 48000 en"))
    check_n_frames(rows_of(clips, "src_lang", "1.0.wav en"))
    check_n_frames(rows_of(clips, "duration src_lang", *[f"{seconds}.wav {seconds} en" for seconds in SECONDS]))
    assert not caplog.messages
    # Neither unit: milliseconds.
    milliseconds = [f"{seconds}.wav {1000 * seconds:.0f} en" for seconds in SECONDS]
    check_n_frames(rows_of(clips, "n_frames src_lang", *milliseconds))
    (line,) = caplog.messages
    assert "column 'n_frames': found a length of 10.02 s, but the audio lasts 1.00 s" in line


def test_a_missing_file_is_found_though_its_length_is_stated(clips: Path) -> None:
    utterances = rows_of(clips, "n_frames", *["1.0.wav 98"] * 600, "gone.wav 98")
    options = ReadOptions(limits=BatchLimits(8, None), shuffle_seed=1, max_seconds=None)
    with pytest.raises(UserError) as caught:
        SpeechTextReader(utterances, options)
    assert str(caught.value).startswith(
        f"{clips / 'rows.tsv'}, line 602, id c600, column 'audio': gone.wav: found no such file"
    )
