"""`speechllm manifest validate`, `stats`, `filter`, `split` and `mix`."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import soundfile

from speechllm_plugin.datasets.audio import read_audio, resolve
from speechllm_plugin.datasets.manifest import frames_of, read_manifest
from tests.tools.corpora.layouts import manifest, rows_of, tone, write_lines

COLUMNS = ("id", "audio", "n_frames", "duration", "tgt_text", "src_text", "speaker", "src_lang", "tgt_lang", "mine")


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    return write_lines(path, ["\t".join(COLUMNS), *("\t".join(row.get(name, "") for name in COLUMNS) for row in rows)])


def row(number: int, seconds: float, text: str = "set a timer", **changes: str) -> dict[str, str]:
    return {
        "id": f"u{number}", "audio": f"clips/c{number}.wav", "n_frames": str(frames_of(seconds)),
        "duration": str(seconds), "tgt_text": text, "speaker": f"s{number % 3}", "src_lang": "en", "tgt_lang": "en",
        "mine": f'"{number}', **changes,
    }  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six clips of 0.5 to 3 s."""
    rows = [row(number, 0.5 * (number + 1)) for number in range(6)]
    for number, one in enumerate(rows):
        tone(tmp_path / one["audio"], 0.5 * (number + 1))
    return table(tmp_path / "train.tsv", rows)


def test_a_whole_manifest_is_found_whole(corpus: Path) -> None:
    result = manifest("validate", corpus).ok()
    assert f"{corpus}: 6 rows, 0.00 h, 0 wrong" in result.stdout


def test_each_wrong_row_is_one_line_with_file_row_and_column(corpus: Path, tmp_path: Path) -> None:
    clips = corpus.parent / "clips"
    (clips / "text.wav").write_text("no sound")
    flac = tone(clips / "cut.flac", 1.0).read_bytes()
    (clips / "cut.flac").write_bytes(flac[: len(flac) // 2])
    with zipfile.ZipFile(clips / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("packed.wav"), (clips / "c0.wav").read_bytes(), zipfile.ZIP_DEFLATED)
        archive.writestr("gr\u00f6ße.wav", (clips / "c0.wav").read_bytes())
        packed, stored = archive.infolist()
    start = stored.header_offset + 30 + len("größe.wav".encode())
    rows = [
        row(0, 0.5),
        row(1, 9.0, id="long"),
        row(1, 1.0, id="nan", duration="nan"),
        row(1, 1.0, id="minus", duration="-1"),
        row(1, 1.0, id="frames", n_frames="1e3", duration=""),
        row(1, 1.0, id="gone", audio="clips/gone.wav"),
        row(1, 1.0, id="text", audio="clips/text.wav"),
        row(1, 1.0, id="cut", audio="clips/cut.flac"),
        row(1, 1.0, id="packed", audio=f"clips/a.zip:{packed.header_offset + 40}:{packed.compress_size}"),
        row(1, 0.5, id="stored", audio=f"clips/a.zip:{start}:{stored.file_size}"),
        row(1, 0.5, id="early", audio=f"clips/a.zip:{start - 2}:{stored.file_size}"),
        row(1, 0.5, id="beyond", audio="clips/c1.wav:15000:8000"),
        row(1, 1.0, " ", id="empty"),
        row(0, 0.5),
    ]
    path = table(corpus, rows)
    with open(path, "a") as file:
        file.write("ragged\tclips/c0.wav\n")
    result = manifest("validate", path, "--show", "20")
    assert result.user_error() == "found 13 wrong rows, expected none"
    for line, column, words in (
        (3, "duration", "found '9.0', which is 9.00 s, expected the length of its sound, 1.00 s"),
        (3, "n_frames", "which is 8.99 s, expected the length of its sound"),
        (4, "duration", "found 'nan', expected seconds above 0"),
        (5, "duration", "found '-1', expected seconds above 0"),
        (6, "n_frames", "found '1e3', expected a positive integer"),
        (7, "audio", "found no such file"),
        (8, "audio", "found no audio"),
        (9, "audio", "clips/cut.flac"),
        (10, "audio", "archive entry that is compressed instead of stored"),
        (12, "audio", "byte range that begins before its archive's entry"),
        (13, "audio", "found 16000 samples, expected at least 23000"),
        (14, "tgt_text", "found ' ', expected some text"),
        (15, "id", f"found 'u0', expected each id once; {path}, line 2 has it too"),
    ):
        start = f"{path}, line {line}, column '{column}'"
        (told,) = [text for text in result.stdout.splitlines() if text.startswith(start)]
        assert words in told
    assert f"{path}, line 16: found another number of fields, expected 10, id, audio," in result.stdout
    assert f"{path}: 15 rows, 0.00 h, 13 wrong" in result.stdout
    # Ids over manifests, and lines that are too many.
    other = table(tmp_path / "dev.tsv", [row(0, 0.5), row(1, 1.0, id="long")])
    result = manifest("validate", corpus, other, "--show", "1")
    line = f"{other}, line 2, column 'id': found 'u0', expected each id once; {path}, line 2 has it too"
    assert line in result.stdout.splitlines()
    assert "column 'audio': 5 more like these" in result.stdout


def test_damage_inside_a_file_is_found_by_decoding(corpus: Path) -> None:
    clip = corpus.parent / "clips/c5.wav"
    flac = tone(clip.with_suffix(".flac"), 3.0).read_bytes()
    clip.with_suffix(".flac").write_bytes(flac[: len(flac) // 2] + bytes(200) + flac[len(flac) // 2 + 200 :])
    table(corpus, [row(5, 3.0, audio="clips/c5.flac")])
    manifest("validate", corpus, "--headers-only").ok()
    assert manifest("validate", corpus).user_error() == "found 1 wrong rows, expected none"


def test_n_frames_in_samples_are_told(corpus: Path) -> None:
    samples = [row(number, 0.5 * (number + 1), duration="", n_frames=str(8000 * (number + 1))) for number in range(6)]
    table(corpus, samples)
    result = manifest("validate", corpus)
    assert "6 rows count samples at 16 kHz, not frames of 10 ms; dataset.config_overrides.n_frames_unit=samples" in (
        result.stdout
    )
    assert result.user_error()


def test_forms_of_unicode_and_silence_are_told(corpus: Path) -> None:
    table(corpus, [row(0, 0.5, "u\u0308ber"), row(1, 1.0, "")])
    assert manifest("validate", corpus).status == 2
    result = manifest("validate", corpus, "--empty-text").ok()
    assert "1 rows have texts in another Unicode form than NFC" in result.stdout


def test_stats_as_a_table_and_a_picture(corpus: Path, tmp_path: Path) -> None:
    rows = [row(number, 0.5 * (number + 1)) for number in range(6)]
    table(corpus, [*rows, row(5, 3.0, "stelle einen wecker", id="st", tgt_lang="de", src_text="set an alarm please")])
    result = manifest("stats", corpus, "--plot", tmp_path / "stats.png").ok()
    lines = result.stdout.splitlines()
    assert lines[0] == "7 rows of 6 clips, 0.00 h, 3 speakers"
    assert lines[1:3] == ["  en -> en: 6 rows", "  en -> de: 1 rows"]
    (seconds,) = [line.split()[-8:] for line in lines if line.startswith("duration in seconds ")]
    assert seconds == ["1.929", "0.5", "0.65", "1.25", "2", "2.75", "3", "3"]
    (words,) = [line.split()[-8:] for line in lines if line.startswith("words of src_text, else tgt_text, a minute ")]
    assert (words[1], words[-1]) == ("60", "360")
    assert (tmp_path / "stats.png").read_bytes().startswith(b"\x89PNG")
    assert "cannot be written" in manifest("stats", corpus, "--plot", tmp_path / "gone/stats.png").user_error()


def test_filters_count_what_they_drop(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "sub/clean.tsv"
    result = manifest(
        "filter", corpus, "--output", output, "--min-seconds", "1", "--max-seconds", "2.5", "--max-words-per-minute",
        "100",
    ).ok()  # fmt: skip
    assert [one["id"] for one in rows_of(output)] == ["u3", "u4"]
    story = json.loads(output.with_suffix(".json").read_text())
    assert story["dropped"] == {
        "shorter than 1 s": 1, "longer than 2.5 s": 1, "more than 100 words a minute": 2,
    }  # fmt: skip
    assert (story["read"], story["kept"]) == (6, 2) and str(corpus) in story["sources"]
    assert "2 of 6 rows" in result.stdout and "1 dropped, shorter than 1 s" in result.stdout
    # A column that nobody knows stays, and the clips are found from the new place.
    assert rows_of(output)[0]["mine"] == '"3'
    for one in read_manifest(output):
        read_audio(resolve(one.audio, output.parent))
    manifest("filter", corpus, "--output", tmp_path / "v.tsv", "--preset", "verdini", "--min-seconds", "0.9").ok()
    assert len(rows_of(tmp_path / "v.tsv")) == 5


def test_no_row_of_a_test_split_is_dropped(corpus: Path, tmp_path: Path) -> None:
    for name in ("test.tsv", "tst-COMMON.tsv"):
        test = corpus.rename(tmp_path / name)
        line = manifest("filter", test, "--output", tmp_path / "x.tsv", "--max-seconds", "1").user_error()
        assert line == f"{test}: found a test split, by its name, expected another: no row of it is dropped"
        corpus = test


def test_parts_share_no_clip_and_no_speaker(corpus: Path, tmp_path: Path) -> None:
    rows = [row(number % 6, 0.5 * (number % 6 + 1), id=f"u{number}") for number in range(12)]
    table(corpus, rows)
    for by, shared in (("clip", "audio"), ("speaker", "speaker")):
        output = tmp_path / by
        result = manifest("split", corpus, "--output", output, "--parts", "train=*,dev=3", "--by", by).ok()
        train, dev = rows_of(output / "train.tsv"), rows_of(output / "dev.tsv")
        assert len(train) + len(dev) == 12 and len(dev) == 4
        assert {one["id"] for one in train + dev} == {one["id"] for one in rows}
        assert not {one[shared] for one in train} & {one[shared] for one in dev}
        assert f"{output / 'dev.tsv'}: 4 of 12 rows" in result.stdout
        before = (output / "dev.tsv").read_bytes()
        manifest("split", corpus, "--output", output, "--parts", "dev=3,train=*", "--by", by, "--overwrite").ok()
        assert (output / "dev.tsv").read_bytes() == before


def test_segments_of_a_file_stay_together(corpus: Path, tmp_path: Path) -> None:
    rows = [row(number, 0.1, audio=f"clips/c{number % 2}.wav:{number * 100}:1600") for number in range(8)]
    table(corpus, rows)
    manifest("split", corpus, "--output", tmp_path / "out", "--parts", "dev=1,train=*", "--by", "file").ok()
    assert len(rows_of(tmp_path / "out/dev.tsv")) == 4


def test_parts_that_cannot_be_made_are_one_line(corpus: Path, tmp_path: Path) -> None:
    for parts, expected in (
        ("train", "--parts: found 'train', expected NAME=ROWS or NAME=*"),
        ("a=*,b=*", "--parts: found * for 'a' and 'b', expected it once"),
        ("dev=7,train=*", "--parts: found too few rows for dev=7"),
        ("dev=6,train=*", "--parts: found no row for 'train'"),
    ):
        line = manifest("split", corpus, "--output", tmp_path / "out", "--parts", parts).user_error()
        assert line.startswith(expected)
    table(corpus, [row(0, 0.5, speaker="")])
    line = manifest("split", corpus, "--output", tmp_path / "o", "--parts", "a=1", "--by", "speaker").user_error()
    assert line == f"{corpus}, line 2, column 'speaker': found '', expected a name, for --by speaker"


def test_a_mix_has_the_rows_of_all(corpus: Path, tmp_path: Path) -> None:
    other = table(tmp_path / "more/st.tsv", [row(number, 1.0) for number in range(300)])
    tone(tmp_path / "more/clips/c0.wav", 1.0)
    output = tmp_path / "mix/all.tsv"
    line = manifest("mix", corpus, other, "--output", output).user_error()
    assert line == (
        f"{other}, line 2, column 'id': found 'u0', expected ids that differ; {corpus}, line 2 has it too "
        "(--prefix-ids makes them differ)"
    )
    assert not list(output.parent.iterdir())
    result = manifest("mix", corpus, f"{other}=0.5", "--output", output, "--prefix-ids").ok()
    rows = rows_of(output)
    assert [one["id"] for one in rows[:7]] == [*(f"1-train-u{number}" for number in range(6)), rows[6]["id"]]
    assert 100 < len(rows) - 6 < 200
    story = json.loads(output.with_suffix(".json").read_text())
    assert [(one["read"], one["kept"]) for one in story["manifests"]] == [(6, 6), (300, len(rows) - 6)]
    assert f"{other}: {len(rows) - 6} of 300 rows" in result.stdout
    assert soundfile.info(rows[0]["audio"]).frames == 8000
    again = tmp_path / "again.tsv"
    manifest("mix", corpus, f"{other}=0.5", "--output", again, "--prefix-ids").ok()
    assert [one["id"] for one in rows_of(again)] == [one["id"] for one in rows]
    for share in ("0", "2", "x"):
        line = manifest("mix", f"{other}={share}", "--output", again, "--overwrite").user_error()
        assert line == f"{other}: found the share {share!r}, expected a number above 0 and up to 1"


def test_a_manifest_is_never_written_over_by_chance(corpus: Path, tmp_path: Path) -> None:
    line = manifest("filter", corpus, "--output", corpus, "--max-seconds", "1", "--overwrite").user_error()
    assert line == f"--output: found {corpus}, one of the manifests that are read, expected another file"
    (tmp_path / "x.tsv").write_text("mine")
    line = manifest("mix", corpus, "--output", tmp_path / "x.tsv").user_error()
    assert line == f"--output: found {tmp_path / 'x.tsv'}, expected no file at its place, or --overwrite"
    assert (tmp_path / "x.tsv").read_text() == "mine"
    line = manifest("filter", corpus, "--output", tmp_path / "y.tsv").user_error()
    assert line == "filter: found no limit, expected one, such as --max-seconds 30"
    corpus.write_text(corpus.read_text() + "cut\toff\n")
    line = manifest("filter", corpus, "--output", tmp_path / "y.tsv", "--max-seconds", "1").user_error()
    assert line.startswith(f"{corpus}, line 8: found another number of fields, expected those of id, audio,")
    assert not (tmp_path / "y.tsv").exists()
