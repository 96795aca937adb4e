"""`speechllm manifest mustc`: segments of talks, named to the sample."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speechllm_tools.corpora.mustc import number_segments, read_segments

from tests.tools.corpora.layouts import manifest, rows_of, sound_of, story_of, tone, write_lines

Segments = list[tuple[str, str, str, str]]
"""Offset and duration as the YAML writes them, transcript, translation."""


def split(root: Path, pair: str, name: str, talk: str, segments: Segments, style: str = "v1") -> Path:
    """A talk's segments in `en-XX/data/SPLIT`; the quirks of the releases differ in the order of keys."""
    folder = root / pair / "data" / name
    lines = []
    for offset, duration, _, _ in segments:
        times = f"duration: {duration}, offset: {offset}"
        lines.append({
            "v1": f"- {{{times}, rW: 9, speaker_id: spk.7, uW: 0, wav: {talk}.wav}}",
            "v2": f"- {{{times}, rW: 9, uW: 0, speaker_id: 'spk.7', wav: {talk}.wav}}",
            "wrapped": f"- {{{times}, rW: 9, uW: 0,\n  speaker_id: spk.7, wav: {talk}.wav}}",
            "block": f"- duration: {duration}\n  offset: {offset}\n  speaker_id: spk.7\n  wav: {talk}.wav",
        }[style])  # fmt: skip
    table = write_lines(folder / "txt" / f"{name}.yaml", lines)
    write_lines(folder / "txt" / f"{name}.en", [english for _, _, english, _ in segments])
    write_lines(folder / "txt" / f"{name}.{pair[3:]}", [translation for _, _, _, translation in segments])
    return table


THREE: Segments = [("8.0", "1.0", "first", "erstes"), ("10.5", "0.5", "third", "drittes"), ("9.2", "1", "", "zweites")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pairs en-de and en-fr over one talk of 12 s."""
    root = tmp_path / "must-c"
    for pair in ("en-de", "en-fr"):
        split(root, pair, "train", "ted_1", THREE)
        split(root, pair, "tst-COMMON", "ted_1", [("0.10", "40.0", "long", "lang"), ("2.01", "1.003", "a", "b")])
        for name in ("train", "tst-COMMON"):
            tone(root / pair / "data" / name / "wav/ted_1.wav", 12)
    return root


@pytest.mark.parametrize("style", ("v1", "v2", "wrapped", "block"))
def test_segments_are_named_to_the_sample(root: Path, tmp_path: Path, style: str) -> None:
    """Whatever YAML each release writes. 2.01 s at 16 kHz are 32160 samples; floats rounded down give 32159."""
    split(root, "en-de", "tst-COMMON", "ted_1", [("2.01", "1.003", "a", "b"), ("0.29", "0.07", "c", "d")], style)
    manifest("mustc", root / "en-de", "--output", tmp_path / "out", "--splits", "tst-COMMON").ok()
    rows = rows_of(tmp_path / "out/tst-COMMON.tsv")
    wav = root / "en-de/data/tst-COMMON/wav/ted_1.wav"
    assert [row["audio"] for row in rows] == [f"{wav}:32160:16048", f"{wav}:4640:1120"]
    assert [row["duration"] for row in rows] == ["1.003", "0.07"]
    assert [row["speaker"] for row in rows] == ["spk.7"] * 2
    talk, _ = soundfile.read(wav, dtype="float32")
    assert np.array_equal(sound_of(tmp_path / "out", rows[0]), talk[32160 : 32160 + 16048])


def test_ids_are_those_of_fbk_or_of_fairseq(root: Path, tmp_path: Path) -> None:
    for ids, numbers in (("fbk", [0, 2, 1]), ("fairseq", [1, 0, 2])):
        manifest(
            "mustc", root, "--pairs", "en-de", "--output", tmp_path / ids, "--splits", "train", "--ids", ids
        ).ok()  # fmt: skip
        assert [row["id"] for row in rows_of(tmp_path / ids / "train.tsv")] == [f"ted_1_{n}" for n in numbers]


def test_both_tasks_take_the_transcripts_of_one_pair(root: Path, tmp_path: Path) -> None:
    manifest("mustc", root, "--output", tmp_path / "out", "--tasks", "transcribe,translate").ok()
    story = story_of(tmp_path / "out", "train", lines=3)
    assert {label: count["kept"] for label, count in story["rows"].items()} == {
        "transcribe en": 2, "translate en-de": 3, "translate en-fr": 3,
    }  # fmt: skip
    assert story["rows"]["transcribe en"]["dropped"] == {"empty transcript": 1}
    assert [row["id"] for row in rows_of(tmp_path / "out/train.tsv")] == [
        "ted_1_0.en", "ted_1_0.en-de", "ted_1_2.en", "ted_1_2.en-de", "ted_1_1.en-de",
        "ted_1_0.en-fr", "ted_1_2.en-fr", "ted_1_1.en-fr",
    ]  # fmt: skip
    # Four pairs are the paper's.
    line = manifest("mustc", root, "--output", tmp_path / "x", "--preset", "verdini").user_error()
    assert line.startswith("--pairs: found 'en-es', expected some of en-de, en-fr")
    manifest("mustc", root, "--output", tmp_path / "y", "--preset", "verdini", "--pairs", "en-fr,en-de",
             "--max-seconds", "0.9").ok()  # fmt: skip
    story = story_of(tmp_path / "y", "train", lines=3)
    assert {label: count["kept"] for label, count in story["rows"].items()} == {
        "translate en-fr": 1, "transcribe en": 1, "translate en-de": 1,
    }  # fmt: skip


def test_segments_beyond_the_end_are_clipped_or_counted(root: Path, tmp_path: Path) -> None:
    split(root, "en-de", "train", "ted_1", [
        ("11.5", "1.5", "clipped", "x"), ("11.5", "1.500063", "a sample too far", "x"), ("12.0", "1", "outside", "x"),
        ("1.0", "nan", "no number", "x"), ("-1.0", "1", "before", "x"), ("3.0", "0.0", "nothing", "x"),
        ("4.0", "1.0", "good", "x"),
    ])  # fmt: skip
    manifest("mustc", root, "--pairs", "en-de", "--output", tmp_path / "out", "--splits", "train").ok()
    rows = rows_of(tmp_path / "out/train.tsv")
    assert [(row["src_text"], row["duration"]) for row in rows] == [("clipped", "0.5"), ("good", "1")]
    for row in rows:
        sound_of(tmp_path / "out", row)
    story = story_of(tmp_path / "out", "train", lines=7)
    assert story["rows"]["translate en-de"]["dropped"] == {
        "segment whose offset or duration is no number of seconds": 3,
        "segment more than 1 s over the end of its file": 1, "segment outside of its file": 1,
    }  # fmt: skip
    assert story["changed"] == {"segments clipped to the end of their file": 1}


def test_line_ends_inside_texts_move_no_line(root: Path, tmp_path: Path) -> None:
    """U+2028, U+0085, VT and FF are text."""
    odd = "a\u2028b\u0085c\x0bd\x0ce"
    split(root, "en-de", "train", "ted_1", [("1.0", "1.0", odd, "x"), ("2.0", "1.0", "next", "y")])
    manifest("mustc", root, "--pairs", "en-de", "--output", tmp_path / "out", "--splits", "train").ok()
    assert [row["src_text"] for row in rows_of(tmp_path / "out/train.tsv")] == [odd, "next"]


def test_files_that_do_not_fit_together_are_one_line(root: Path, tmp_path: Path) -> None:
    texts = root / "en-de/data/train/txt"
    write_lines(texts / "train.de", ["only one"])
    arguments = ("mustc", root, "--pairs", "en-de", "--splits", "train", "--output", tmp_path / "out")
    assert manifest(*arguments).user_error() == (
        f"{texts / 'train.yaml'}: found 3 segments, but 3 lines in train.en and 1 in train.de, expected line N of each "
        "to belong to segment N"
    )
    good = "- {duration: 1, offset: 1, wav: ted_1.wav}"
    for lines, expected in (
        ([good, "duration: 3"], "line 2: found 'duration: 3', expected a list of segments"),
        ([good, "- {duration: 1, offset: 2"], "line 2: found '{duration: 1, offset: 2', expected '}' at its end"),
        ([good, "- {duration: 1, wav: ted_1.wav}"], "line 2: found '{duration: 1, wav: ted_1.wav}', expected"),
    ):
        table = write_lines(texts / "train.yaml", lines)
        line = manifest(*arguments).user_error()
        assert line.startswith(f"{table}, {expected}")
    (texts / "train.de").unlink()
    assert "train.de: cannot be read" in manifest(*arguments).user_error()
    assert not (tmp_path / "out").exists()


def test_a_training_split_is_read_in_seconds(tmp_path: Path) -> None:
    """A tenth of MuST-C's 250,000 segments; a safe YAML loader takes ten seconds for it."""
    line = "- {{duration: 3.500000, offset: {:.6f}, rW: 9, uW: 0, speaker_id: spk.{}, wav: ted_{}.wav}}"
    table = write_lines(tmp_path / "train.yaml", [line.format(i % 100 * 4, i // 100, i // 100) for i in range(25_000)])
    start = time.process_time()
    segments = list(read_segments(table))
    numbers = number_segments(segments, "fbk")
    assert time.process_time() - start < 2
    assert len(segments) == 25_000 and max(numbers) == 99
