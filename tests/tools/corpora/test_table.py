"""`speechllm manifest table`: tables of one's own, and the manifests of other toolkits."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speechllm_tools.prepare import run

from tests.tools.corpora.layouts import manifest, rows_of, sound_of, story_of, tone, write_lines
from tests.web_server import serving


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three clips, and a table's folder."""
    for number in range(3):
        tone(tmp_path / f"clips/c{number}.wav", 1.0 + number)
    return tmp_path


def test_csv_with_columns_of_other_names(clips: Path, tmp_path: Path) -> None:
    """Commas, quotation marks and line ends inside fields are the text's."""
    with open(clips / "mine.csv", "w", newline="") as file:
        csv.writer(file).writerows([
            ("wav", "words", "who"), ("clips/c0.wav", 'one, "two"\nthree', "anna"), ("clips/c1.wav", "NA", "ben"),
            ("clips/c2.wav", "too", "many", "fields"), ("clips/c9.wav", "gone", "ben"), ("", "no sound", "ben"),
        ])  # fmt: skip
    manifest(
        "table", f"train={clips / 'mine.csv'}", "--columns", "audio=wav,tgt_text=words,speaker=who",
        "--src-lang", "de", "--output", tmp_path / "out",
    ).ok()  # fmt: skip
    rows = rows_of(tmp_path / "out/train.tsv")
    assert [(row["id"], row["tgt_text"], row["speaker"]) for row in rows] == [
        ("c0-2", 'one, "two" three', "anna"), ("c1-4", "NA", "ben"),
    ]  # fmt: skip
    assert rows[0]["src_text"] == rows[0]["tgt_text"]
    story = story_of(tmp_path / "out", "train", lines=5)
    assert story["rows"]["transcribe de"]["dropped"] == {
        "line with another number of columns than the header": 1, "no such audio file": 1, "row that names no sound": 1,
    }  # fmt: skip
    assert story["changed"]["texts whose tabs and line ends became spaces"] == 1
    line = manifest("table", clips / "mine.csv", "--output", "x").user_error()
    assert "mine.csv, line 1: found columns 'wav', 'words', 'who', expected also 'audio', 'tgt_text'" in line
    line = manifest("table", clips / "mine.csv", "--output", "x", "--columns", "sound=wav").user_error()
    assert line.startswith("--columns: found 'sound', expected OURS=THEIRS with one of id, audio,")
    (clips / "mine.csv").write_text('audio,tgt_text\na.wav,"un"quoted\n')
    line = manifest("table", clips / "mine.csv", "--output", "x").user_error()
    assert "mine.csv, line 2: found a field that is quoted wrongly" in line


def test_tsv_and_jsonl_with_segments_and_both_tasks(clips: Path, tmp_path: Path) -> None:
    write_lines(clips / "dev.tsv", [
        "audio\toffset\tduration\tsrc_text\ttgt_text", 'clips/c2.wav\t2.01\t0.5\t"quoted\tzitiert',
        "clips/c2.wav\tNaN\t0.5\ta\tb", "clips/c2.wav\t1\t-3\ta\tb",
    ])  # fmt: skip
    (clips / "more.jsonl").write_text(
        '{"audio": "clips/c2.wav", "offset": 2.01, "duration": 5e-1, "src_text": "a\\tb", "tgt_text": "ab"}\n'
        '[1]\n{"audio": "clips/c2.wav", "offset": 0, "duration": NaN, "tgt_text": "x"}\nnot json\n'
    )
    manifest(
        "table", clips / "dev.tsv", f"dev={clips / 'more.jsonl'}", "--src-lang", "en", "--tgt-lang", "de",
        "--tasks", "transcribe,translate", "--output", tmp_path / "out",
    ).ok()  # fmt: skip
    rows = rows_of(tmp_path / "out/dev.tsv")
    assert [(row["id"], row["tgt_text"]) for row in rows] == [
        ("c2-2.en", '"quoted'), ("c2-2.en-de", "zitiert"), ("c2-1.en", "a b"), ("c2-1.en-de", "ab"),
    ]  # fmt: skip
    assert {row["audio"] for row in rows} == {f"{clips}/clips/c2.wav:32160:8000"}
    story = story_of(tmp_path / "out", "dev", lines=7)
    assert story["rows"]["transcribe en"]["dropped"] == {
        "row whose offset or duration is no number of seconds": 3, "line that is no JSON object": 2,
    }  # fmt: skip


def test_a_channel_is_heard_where_a_column_is_named_for_it(tmp_path: Path) -> None:
    sides = 0.1 * np.random.default_rng(0).normal(size=(16000, 2))
    soundfile.write(tmp_path / "call.wav", sides, 16000, "FLOAT")
    write_lines(tmp_path / "train.csv", [
        "id,audio,side,channel,offset,duration,tgt_text", "a,call.wav,1,x,,,one", "b,call.wav,2,x,0.5,0.25,two",
        "both,call.wav,,x,,,three", "c,call.wav,3,x,,,four", "d,call.wav,0,x,,,five", "e,call.wav,B,x,,,six",
    ])  # fmt: skip
    command = ("table", tmp_path / "train.csv", "--output")
    manifest(*command, tmp_path / "out", "--columns", "channel=side").ok()
    rows = rows_of(tmp_path / "out/train.tsv")
    assert [(row["id"], row["channel"]) for row in rows] == [("a", "1"), ("b", "2"), ("both", "")]
    for row, expected in zip(rows, (sides[:, 0], sides[8000:12000, 1], sides.mean(1)), strict=True):
        assert np.abs(sound_of(tmp_path / "out", row) - expected).max() < 1e-6
    assert story_of(tmp_path / "out", "train", lines=6)["rows"]["transcribe en"]["dropped"] == {
        "row whose channel is no number from 1 on": 2, "channel that its file does not have": 1,
    }  # fmt: skip
    manifest(*command, tmp_path / "plain").ok()
    assert ["channel" in row for row in rows_of(tmp_path / "plain/train.tsv")] == [False] * 6


def test_a_segment_of_a_segment_and_a_text_that_utf_8_cannot_hold(clips: Path, tmp_path: Path) -> None:
    write_lines(clips / "train.jsonl", [
        '{"audio": "clips/c2.wav:8000:16000", "offset": 0.25, "duration": 0.5, "tgt_text": "inside"}',
        '{"audio": "clips/c2.wav:8000:16000", "offset": 0.75, "duration": 5, "tgt_text": "beyond"}',
        '{"audio": "clips/c1.wav", "tgt_text": "half of a pair: \\ud83d"}',
    ])  # fmt: skip
    manifest("table", clips / "train.jsonl", "--output", tmp_path / "out").ok()
    (row,) = rows_of(tmp_path / "out/train.tsv")
    assert row["audio"] == f"{clips}/clips/c2.wav:12000:8000"
    assert story_of(tmp_path / "out", "train", lines=3)["rows"]["transcribe en"]["dropped"] == {
        "segment more than 1 s over the end of its file": 1, "a text or a path that UTF-8 cannot hold": 1,
    }  # fmt: skip


def test_nemo(clips: Path, tmp_path: Path) -> None:
    """A row without an offset is the whole file, whatever its duration says; one with an offset of 0 is not."""
    rows = [
        {"audio_filepath": "clips/c0.wav", "duration": 1.0, "text": "whole", "lang": "de"},
        {"audio_filepath": "clips/c1.wav", "duration": 0.5, "text": "whole in spite of it", "lang": "de"},
        {"audio_filepath": "clips/c1.wav", "offset": 0, "duration": 0.5, "text": "its beginning", "lang": "de"},
        {"audio_filepath": "clips/c1.wav", "duration": 2.0, "text": "x", "_skipme": 1, "lang": "de"},
        {"audio_filepath": "clips/c0.wav", "duration": 1.0, "answer": "ganz", "source_lang": "en", "target_lang": "de"},
    ]
    write_lines(clips / "train.json", [json.dumps(row) for row in rows])
    manifest("table", clips / "train.json", "--format", "nemo", "--output", tmp_path / "out").ok()
    found = rows_of(tmp_path / "out/train.tsv")
    assert [(row["tgt_text"], row["duration"], row["src_lang"], row["tgt_lang"]) for row in found] == [
        ("whole", "1", "de", "de"), ("whole in spite of it", "2", "de", "de"), ("its beginning", "0.5", "de", "de"),
        ("ganz", "1", "en", "de"),
    ]  # fmt: skip
    story = story_of(tmp_path / "out", "train")
    assert story["rows"]["transcribe de"] == {"read": 4, "kept": 3, "dropped": {"row marked with _skipme": 1}}
    assert story["rows"]["translate en-de"]["kept"] == 1
    assert story["changed"] == {"stated durations that are not the file's (the file's taken)": 1}
    write_lines(clips / "train.json", [json.dumps({"audio": "x"})])
    line = manifest("table", clips / "train.json", "--format", "nemo", "--output", "x").user_error()
    assert "train.json, line 1: found keys 'audio', expected also 'audio_filepath'" in line


def test_slam(clips: Path, tmp_path: Path) -> None:
    row = {"key": "k1", "source": str(clips / "clips/c0.wav"), "target": "HELLO", "prompt": "Transcribe."}
    write_lines(clips / "train.jsonl", [json.dumps(row)])
    manifest("table", clips / "train.jsonl", "--format", "slam", "--output", tmp_path / "out").ok()
    assert [(row["id"], row["tgt_text"]) for row in rows_of(tmp_path / "out/train.tsv")] == [("k1", "HELLO")]


def test_fairseq_with_its_escapes_and_ranges(clips: Path, tmp_path: Path) -> None:
    """Its ranges begin a byte too early for each non-ASCII letter of the entry's name; they are mended and counted."""
    sound = (clips / "clips/c0.wav").read_bytes()
    with zipfile.ZipFile(clips / "fbank.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("größe.wav", sound)
        archive.writestr("features.npy", b"\x93NUMPY" + bytes(100))
        archive.writestr(zipfile.ZipInfo("packed.wav"), sound, zipfile.ZIP_DEFLATED)
        entries = {entry.filename: entry for entry in archive.infolist()}

    def by_letters(name: str) -> str:
        entry = entries[name]
        return f"fbank.zip:{entry.header_offset + 30 + len(name)}:{entry.compress_size}"

    write_lines(clips / "train_st.tsv", [
        "id\taudio\tn_frames\ttgt_text\tspeaker", f'u1\t{by_letters("größe.wav")}\t98\t\\"Ja,\\" 1\\\\2\ts',
        f"u2\t{by_letters('features.npy')}\t98\tx\ts", f"u3\t{by_letters('packed.wav')}\t98\tx\ts",
        "u4\tfbank.zip:5:7\t98\tx\ts", "u5\tgone.zip:5:7\t98\tx\ts",
    ])  # fmt: skip
    manifest(
        "table", clips / "train_st.tsv", "--format", "fairseq", "--src-lang", "en", "--tgt-lang", "de",
        "--output", tmp_path / "out",
    ).ok()  # fmt: skip
    (row,) = rows_of(tmp_path / "out/train_st.tsv")
    assert (row["id"], row["tgt_text"]) == ("u1", '"Ja," 1\\2')
    sound_of(tmp_path / "out", row)
    story = story_of(tmp_path / "out", "train_st", lines=5)
    assert story["changed"] == {"byte ranges moved to where their archive's entry begins": 1}
    assert story["rows"]["translate en-de"]["dropped"] == {
        "archive entry of features (.npy), not of sound": 1, "archive entry that is compressed instead of stored": 1,
        "byte range that is no entry of its archive": 1, "no such audio file": 1,
    }  # fmt: skip


def test_parquet(clips: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    data = (clips / "clips/c2.wav").read_bytes()
    table = pyarrow.table({
        "audio": [{"bytes": data, "path": None}, {"bytes": None, "path": "clips/c0.wav"}], "sentence": ["a", "b"],
        "offset": [0.5, None],
    })  # fmt: skip
    parquet.write_table(table, clips / "train.parquet")
    manifest("table", clips / "train.parquet", "--columns", "tgt_text=sentence", "--output", tmp_path / "out").ok()
    rows = rows_of(tmp_path / "out/train.tsv")
    # A segment of bytes cannot be named by a range of bytes: it is cut out.
    assert [row["duration"] for row in rows] == ["2.5", "1"]
    for row in rows:
        sound_of(tmp_path / "out", row)
    story_of(tmp_path / "out", "train", lines=2)


def test_sound_inside_tables_is_taken_a_few_bytes_at_a_time(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of the usual number of rows may hold gigabytes."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(run, "CHUNK_BYTES", 50_000)
    audio = [{"bytes": (clips / f"clips/c{number}.wav").read_bytes(), "path": f"{number}.wav"} for number in (0, 1, 2)]
    parquet.write_table(pyarrow.table({"audio": audio, "tgt_text": ["a", "b", "c"]}), clips / "train.parquet")
    manifest("table", clips / "train.parquet", "--output", tmp_path / "out").ok()
    # 32, 64 and 96 kB: the first two make a chunk.
    assert [path.name for path in sorted((tmp_path / "out").rglob("*.zip"))] == ["00000-0.zip", "00001-0.zip"]
    for row, seconds in zip(rows_of(tmp_path / "out/train.tsv"), (1, 2, 3), strict=True):
        assert len(sound_of(tmp_path / "out", row)) == 16000 * seconds


def test_sound_on_a_server(clips: Path, tmp_path: Path) -> None:
    """It is measured there, and named as it was."""
    with serving(clips) as site:
        url = f"{site.url}/clips"
        write_lines(clips / "all.tsv", [
            "audio\toffset\tduration\ttgt_text", f"{url}/c0.wav\t\t\tone", f"{url}/c2.wav\t1\t0.5\ttwo",
            f"{url}/none.wav\t\t\tgone",
        ])  # fmt: skip
        manifest("table", clips / "all.tsv", "--output", tmp_path / "out", "--audio-root", tmp_path).ok()
        rows = rows_of(tmp_path / "out/all.tsv")
        assert [(row["audio"], row["duration"]) for row in rows] == [
            (f"{url}/c0.wav", "1"), (f"{url}/c2.wav:16000:8000", "0.5"),
        ]  # fmt: skip
        manifest("validate", tmp_path / "out/all.tsv").ok()
        for action, *more in (("mix",), ("filter", "--max-seconds", "9")):
            output = tmp_path / action / "all.tsv"
            manifest(action, tmp_path / "out/all.tsv", "--output", output, *more).ok()
            assert [row["audio"] for row in rows_of(output)] == [row["audio"] for row in rows]
    story = story_of(tmp_path / "out", "all", lines=3)
    assert list(story["rows"]["transcribe en"]["dropped"].values()) == [1]


def test_headers_and_texts_that_no_manifest_can_hold(clips: Path, tmp_path: Path) -> None:
    for ending, separator in ((".csv", ","), (".tsv", "\t")):
        table = clips / f"x{ending}"
        table.write_text(separator.join(["audio", "tgt_text", "tgt_text"]) + "\n")
        line = manifest("table", table, "--output", "x").user_error()
        assert line == f"{table}, line 1: found column 'tgt_text' more than once, expected each column once"
        table.write_text("")
        line = manifest("table", table, "--output", "x").user_error()
        assert line == f"{table}: found no header in the first line, expected 'audio', 'tgt_text'"
    # As pandas writes its index.
    (clips / "x.csv").write_text(",,audio,tgt_text\n0,0,clips/c0.wav,one\n1,1,clips/c1.wav,a\0b\n")
    manifest("table", clips / "x.csv", "--output", tmp_path / "out").ok()
    assert [row["tgt_text"] for row in rows_of(tmp_path / "out/x.tsv")] == ["one"]
    dropped = story_of(tmp_path / "out", "x", lines=2)["rows"]["transcribe en"]["dropped"]
    assert dropped == {"a text or a path with U+0000": 1}


def test_names_that_cannot_be_read_are_one_line(clips: Path, tmp_path: Path) -> None:
    line = manifest("table", "gone.tsv", "--output", "x").user_error()
    assert line == "gone.tsv: found no such file, expected a table"
    write_lines(clips / "x.txt", ["a"])
    line = manifest("table", clips / "x.txt", "--output", "x").user_error()
    assert "found the ending '.txt', expected --format" in line
