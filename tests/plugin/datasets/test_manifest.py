"""Manifests: what is written is read back, and every mistake gives one line that says where."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from speechllm_plugin.datasets.manifest import (
    ManifestRow,
    frames_of,
    open_manifest,
    read_manifest,
    seconds_of,
    write_manifest,
)
from speechllm_plugin.errors import UserError

ROW = ManifestRow("a", "clips/a.wav", 98, "hello", "", "s1", "en", "de", 2)


def save(folder: Path, content: str | bytes) -> Path:
    path = folder / "m.tsv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def error_of(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_manifest(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def test_rows_survive_a_round_trip(tmp_path: Path) -> None:
    rows = [
        ROW,
        ManifestRow("b", "x.zip:45:678", None, 'backslash \\n, "quotes", ünï, 語\u2028line', "source", "", "", "", 3),
    ]
    write_manifest(tmp_path / "m.tsv", rows)
    assert read_manifest(tmp_path / "m.tsv") == rows


def test_the_source_text_column_exists_only_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "m.tsv"
    write_manifest(path, [ROW])
    assert path.read_text().splitlines()[0] == "id\taudio\tn_frames\ttgt_text\tspeaker\tsrc_lang\ttgt_lang"
    write_manifest(path, [ROW, replace(ROW, id="b", src_text="x")])
    assert path.read_text().splitlines()[0] == "id\taudio\tn_frames\ttgt_text\tsrc_text\tspeaker\tsrc_lang\ttgt_lang"


def test_separators_inside_texts_become_spaces(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.tsv", [replace(ROW, tgt_text="a\tb\rc\nd")])
    assert (tmp_path / "m.tsv").read_bytes().count(b"\n") == 2
    assert read_manifest(tmp_path / "m.tsv")[0].tgt_text == "a b c d"


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([ROW, ROW], "found its id twice"),
        ([replace(ROW, id=" ")], "expected an id and a path"),
        ([replace(ROW, audio="a\tb.wav")], r"'a\tb.wav', expected no tab"),  # a space would name another file
        ([replace(ROW, tgt_text="\udc80")], r"'\udc80', which UTF-8 cannot hold"),  # a file name that is not UTF-8
    ],
)
def test_the_writer_refuses_what_could_not_be_read(tmp_path: Path, rows: list[ManifestRow], found: str) -> None:
    path = save(tmp_path, "what was there before")
    with pytest.raises(UserError) as caught:
        write_manifest(path, rows)
    assert found in str(caught.value)
    assert path.read_text() == "what was there before"
    assert os.listdir(tmp_path) == ["m.tsv"]


def test_a_manifest_is_replaced_whole(tmp_path: Path) -> None:
    path = save(tmp_path, "old")
    # A second name of the old file: writing into that file would change it.
    os.link(path, tmp_path / "old.tsv")
    write_manifest(path, [ROW])
    assert (tmp_path / "old.tsv").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["m.tsv", "old.tsv"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = save(tmp_path, "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="m.tsv: cannot be written .No space left on device."):
        write_manifest(path, [ROW])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["m.tsv"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/m.tsv: cannot be written"):
        write_manifest(tmp_path / "file" / "m.tsv", [ROW])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": found an empty file, expected a header line and rows"),
        (b"\n\n", ": found an empty file, expected a header line and rows"),  # line ends alone are no header
        (b"id\taudio\ttgt_text\n", ": found a header and no rows, expected at least one row"),
        (
            b"id\tpath\nx\ty\n",
            ", line 1: found columns 'id', 'path', expected also 'audio', 'tgt_text'",
        ),
        (
            b"id,audio,tgt_text\nx,y,z\n",  # commas instead of tabs
            ", line 1: found columns 'id,audio,tgt_text', expected also 'id', 'audio', 'tgt_text'",
        ),
        (
            b"id\taudio\ttgt_text\tid\n",
            ", line 1: found column 'id' more than once, expected each column once",
        ),
        (
            b"id\taudio\ttgt_text\na\tb\tc\na\tb\tc\n",
            ", line 3, column 'id': found 'a', which line 2 has too, expected each id once",
        ),
        (
            b"id\taudio\ttgt_text\na\tb\n",
            ", line 2: found 2 tab-separated fields, expected 3 (id, audio, tgt_text)",
        ),
        (
            b"id\taudio\ttgt_text\na\tb\tc\td\n",  # a tab inside the text
            ", line 2: found 4 tab-separated fields, expected 3 (id, audio, tgt_text)",
        ),
        (
            b"id\taudio\ttgt_text\na\tb\tc\n\nd\te\tf\n",
            ", line 3: found an empty line, expected 3 tab-separated fields",
        ),
        (
            b"id\taudio\ttgt_text\na\tb\tc\rd\n",
            ", line 2: found a carriage return inside the line, expected line ends LF or CRLF",
        ),
        (
            b"id\taudio\ttgt_text\na\tb\tgr\xfc\xdfe\n",  # Latin-1
            ", line 2: found byte 0xfc at byte 7 of the line, expected UTF-8",
        ),
        (
            b"\xef\xbb\xbfid\taudio\ttgt_text\r\na\tb\tc\r\nd\te\t\xff\r\n",  # the mark does not shift the count
            ", line 3: found byte 0xff at byte 5 of the line, expected UTF-8",
        ),
        (b"id\taudio\ttgt_text\n\tb\tc\n", ", line 2, column 'id': found '', expected some text"),
        (b"id\taudio\ttgt_text\na\t \tc\n", ", line 2, column 'audio': found ' ', expected some text"),
        (
            b"id\taudio\ttgt_text\na\tb\t \n",
            ", line 2, column 'tgt_text': found ' ', expected some text (dataset.config_overrides.empty_text=silence, "
            "if nobody speaks in it)",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    assert error_of(save(tmp_path, content)) == message


@pytest.mark.parametrize(
    "value",
    [
        "0",  # a clip has at least one frame
        "-3",
        "1.5",  # seconds by mistake
        "1_000",  # int() takes it
        " 7",  # so does it this
        "²",  # isdigit() takes it
        "nan",  # pandas writes it for a missing value
    ],
)
def test_a_length_is_a_positive_integer(tmp_path: Path, value: str) -> None:
    path = save(tmp_path, f"id\taudio\tn_frames\ttgt_text\na\tb\t{value}\tc\n")
    assert error_of(path) == f", line 2, column 'n_frames': found {value!r}, expected a positive integer"


DURATIONS = ["5.25", "5", "0.0250001", "5.", ".5", "1e1", "2.5E-1", "0.123456789012345678901"]


def test_a_duration_tells_the_length_where_n_frames_does_not(tmp_path: Path) -> None:
    """However it is written: most rows are read many at once, those of other forms one by one."""
    rows = [f"{number}\tb\t\t{value}\tc\n" for number, value in enumerate(DURATIONS)]
    path = save(tmp_path, "id\taudio\tn_frames\tduration\ttgt_text\n" + "".join(rows) + "x\tb\t7\t99\tc\ny\tb\t\t\tc\n")
    manifest = open_manifest(path)
    expected = [frames_of(float(value)) for value in DURATIONS]
    assert [row.n_frames for row in manifest] == [*expected, 7, None]
    assert manifest.columns.n_frames.tolist() == [*expected, 7, 0]
    assert [row.length_from for row in manifest] == ["duration"] * len(expected) + ["n_frames"] * 2
    samples = open_manifest(path, n_frames_unit="samples")
    assert samples.columns.n_frames.tolist() == [*expected, 1, 0]


@pytest.mark.parametrize("value", ["nan", "-1.5", "0", "0.0", "inf", "1e99", "1_0", " 7", "٣", "5,3"])
def test_a_duration_is_in_seconds(tmp_path: Path, value: str) -> None:
    path = save(tmp_path, f"id\taudio\tduration\ttgt_text\na\tb\t{value}\tc\n")
    assert error_of(path) == f", line 2, column 'duration': found {value!r}, expected seconds above 0"
    # Where nobody needs it, nobody reads it.
    path = save(tmp_path, f"id\taudio\tn_frames\tduration\ttgt_text\na\tb\t7\t{value}\tc\n")
    assert [row.n_frames for row in open_manifest(path)] == [7]


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none.tsv") == ": found no such file, expected a TSV file"
    assert "cannot be read (Is a directory)" in error_of(tmp_path)


def test_a_byte_order_mark_and_crlf_are_tolerated(tmp_path: Path) -> None:
    path = save(tmp_path, b"\xef\xbb\xbfid\taudio\ttgt_text\r\na\tb\tc\r\nd\te\tf\r\n\r\n")
    assert [(row.id, row.tgt_text, row.line) for row in read_manifest(path)] == [("a", "c", 2), ("d", "f", 3)]


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    path = save(tmp_path, "speaker\ttgt_text\textra\tid\tn_frames\taudio\ns\tt\t?\ti\t7\ta\n")
    assert read_manifest(path) == [ManifestRow("i", "a", 7, "t", "", "s", "", "", 2)]


def test_a_file_without_header_takes_its_names_from_the_caller(tmp_path: Path) -> None:
    path = save(tmp_path, "a.wav\ti\tt\n")
    assert read_manifest(path, columns=("audio", "id", "tgt_text")) == [
        ManifestRow("i", "a.wav", None, "t", "", "", "", "", 1)
    ]
    assert error_of(path, columns=("id", "audio")) == ": found columns 'id', 'audio', expected also 'tgt_text'"


def test_texts_may_be_missing_where_none_are_required(tmp_path: Path) -> None:
    assert read_manifest(save(tmp_path, "id\taudio\na\tb\n"), require_text=False)[0].tgt_text == ""
    assert read_manifest(save(tmp_path, "id\taudio\ttgt_text\na\tb\t\n"), require_text=False)[0].tgt_text == ""


def test_backslashes_are_undone_only_on_request(tmp_path: Path) -> None:
    # As pandas writes the texts 'tab<TAB>here', 'line<LF>end', 'C:\temp' and 'ends in \'.
    path = save(
        tmp_path,
        "id\taudio\ttgt_text\n1\ta\ttab\\\there\n2\ta\tline\\\nend\n3\ta\tC:\\\\temp\n4\ta\tends in \\\\\n",
    )
    rows = read_manifest(path, legacy_escapes=True)
    assert [row.tgt_text for row in rows] == ["tab here", "line end", "C:\\temp", "ends in \\"]
    assert [row.line for row in rows] == [2, 3, 5, 6]
    assert error_of(path).startswith(", line 2: found 4 tab-separated fields")
    assert "with `legacy_escapes` a backslash makes the tab or line end" in error_of(path)


SAID = ['"Hello," he said, "hello."', "she called it a \"test\"", "plain", '"', '""', "5\" wide", "it''s"]


def written(folder: Path, **options: Any) -> Path:
    """A manifest as Python's csv writes it; `pandas.DataFrame.to_csv` passes the same options on to it."""
    path = folder / "written.tsv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", **options)
        writer.writerow(["id", "audio", "tgt_text"])
        writer.writerows([str(i), "a.wav", text] for i, text in enumerate(SAID))
    return path


def test_quotation_marks_behind_a_backslash_are_told_and_undone_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.tsv"
    # As pandas 3 writes them; up to 2.3 it left them alone.
    lines = [f"{i}\ta.wav\t" + text.replace('"', '\\"') for i, text in enumerate(SAID)]
    path.write_text("id\taudio\ttgt_text\n" + "\n".join(lines) + "\n")
    assert read_manifest(path)[1].tgt_text == 'she called it a \\"test\\"'
    (line,) = caplog.messages
    assert line == (
        f'{path}: found \\" for a quotation mark in the texts of 5 of 7 rows, first in line 2; '
        "dataset.config_overrides.legacy_escapes=true reads manifests written by pandas, with a backslash before each"
    )
    caplog.clear()
    assert [row.tgt_text for row in read_manifest(path, legacy_escapes=True)] == SAID
    assert not caplog.messages


def test_doubled_quotation_marks_are_told_and_undone_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path)
    assert read_manifest(path)[1].tgt_text == '"she called it a ""test"""'
    (line,) = caplog.messages
    assert line.startswith(f'{path}: found "" for a quotation mark in the texts of 5 of 7 rows, first in line 2; ')
    assert "dataset.config_overrides.csv_quotes=true" in line
    caplog.clear()
    assert [row.tgt_text for row in read_manifest(path, csv_quotes=True)] == SAID
    assert [row.line for row in read_manifest(path, csv_quotes=True)] == list(range(2, 9))
    assert not caplog.messages
    # All fields quoted, the header, too.
    path = written(tmp_path, quoting=csv.QUOTE_ALL)
    assert [row.tgt_text for row in read_manifest(path, csv_quotes=True)] == SAID


def test_texts_with_quotation_marks_of_their_own_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ['"all of it"', '"one" and "two"', "C:\\temp", 'say "" nothing', '"a" "" "b"']
    rows = [replace(ROW, id=str(i), tgt_text=text, src_text=text) for i, text in enumerate(texts)]
    write_manifest(tmp_path / "m.tsv", rows)
    assert [row.tgt_text for row in read_manifest(tmp_path / "m.tsv")] == texts
    assert not caplog.messages


def test_separators_between_quotation_marks_are_part_of_a_text(tmp_path: Path) -> None:
    path = save(tmp_path, 'id\taudio\ttgt_text\r\n1\ta\t"one\ttwo\r\nthree"\r\n2\tb\tfour\r\n')
    assert "expected 3 (id, audio, tgt_text); with `csv_quotes` tabs" in error_of(path)
    rows = read_manifest(path, csv_quotes=True)
    assert [(row.tgt_text, row.line) for row in rows] == [("one two  three", 2), ("four", 4)]
    path = save(tmp_path, 'id\taudio\ttgt_text\n1\ta\t"one" two\n')
    assert error_of(path, csv_quotes=True).startswith(", line 2: found a field that is quoted wrongly (")
    path = save(tmp_path, "id\taudio\ttgt_text\n1\ta\tone\n\n2\tb\ttwo\n")
    assert error_of(path, csv_quotes=True).startswith(", line 3: found an empty line")


def test_samples_are_turned_into_frames(tmp_path: Path) -> None:
    path = save(tmp_path, "id\taudio\tn_frames\ttgt_text\na\tb\t16000\tc\n")
    assert read_manifest(path, n_frames_unit="samples")[0].n_frames == 98
    assert read_manifest(path)[0].n_frames == 16000


@pytest.mark.parametrize(
    ("seconds", "frames"),
    [
        (1.0, 98),  # 1 + (1000 - 25) / 10 = 98.5
        (0.025, 1),  # exactly one window
        (0.035, 2),
        (1.005, 99),  # 1.005 * 1e6 falls short of 1005000 in floating point
        (0.0349, 1),
        (0.01, 1),  # shorter than a window: never zero
        (30.0, 2998),
    ],
)
def test_frames_are_windows_of_25_ms_every_10_ms(seconds: float, frames: int) -> None:
    assert frames_of(seconds) == frames


def test_frames_and_seconds_agree_to_one_step() -> None:
    for milliseconds in range(25, 2000, 7):
        seconds = milliseconds / 1000
        assert 0 <= seconds - seconds_of(frames_of(seconds)) < 0.01
