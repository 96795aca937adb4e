"""`speechllm manifest covost2`: CoVoST 2 over Common Voice, as tables and as parquet."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechllm_plugin.datasets.manifest import read_manifest
from tests.tools.corpora.layouts import manifest, rows_of, sound_of, story_of, tone, write_lines

RELEASE_4 = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent"
RELEASE_17 = (
    "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\t"
    "locale\tsegment"
)


def validated(root: Path, lang: str, clips: dict[str, str]) -> None:
    """Common Voice of a language, clips by name with their sentences."""
    lines = [f"speaker{i % 3}\t{name}.mp3\t{text}\t2\t0\t\t\t" for i, (name, text) in enumerate(clips.items())]
    write_lines(root / lang / "validated.tsv", [RELEASE_4, *lines])
    for i, name in enumerate(clips):
        tone(root / lang / "clips" / f"{name}.mp3", 0.5 + 0.1 * i, rate=48000)


def translated(folder: Path, pair: str, rows: list[tuple[str, str, str]]) -> Path:
    lines = ["path\ttranslation\tsplit", *("\t".join((f"{name}.mp3", text, split)) for name, text, split in rows)]
    return write_lines(folder / f"covost_v2.{pair}.tsv", lines)


@pytest.fixture
def german(tmp_path: Path) -> Path:
    """Six clips of German. Each text holds what a reader of CSV stumbles over."""
    root = tmp_path / "cv"
    validated(root, "de", {
        "c1": 'Er sagte "ja', "c2": "None", "c3": "Gru\u0308ße\\n", "c4": '"""Auf Wiedersehen,"" sagte sie."',
        "c5": "x\u2028y", "c6": "nan",
    })  # fmt: skip
    translated(root / "de", "de_en", [
        ("c1", '"Yes', "train"), ("c2", "NA", "train_covost"), ("c3", "Greetings\\", "train"), ("c4", "Bye", "dev"),
        ("c5", "x and y", "test"), ("c6", "", "train"), ("gone", "Not validated", "train"),
    ])  # fmt: skip
    return root


def test_texts_are_as_they_stand_and_every_line_is_accounted_for(german: Path, tmp_path: Path) -> None:
    result = manifest("covost2", german, "--output", tmp_path / "out").ok()
    train = rows_of(tmp_path / "out/train.tsv")
    assert [(row["id"], row["src_text"], row["tgt_text"]) for row in train] == [
        ("c1", 'Er sagte "ja', '"Yes'), ("c2", "None", "NA"), ("c3", "Grüße\\n", "Greetings\\"),
    ]  # fmt: skip
    assert rows_of(tmp_path / "out/test.tsv")[0]["src_text"] == "x\u2028y"
    assert [(row["src_lang"], row["tgt_lang"], row["speaker"]) for row in train][0] == ("de", "en", "speaker0")
    for row in train:
        sound_of(tmp_path / "out", row)
        assert Path(row["audio"]).is_absolute()

    story = story_of(tmp_path / "out", "train", lines=5)
    count = story["rows"]["translate de-en"]
    assert count["dropped"] == {"empty translation": 1, "clip that is not in validated.tsv": 1}
    assert story["changed"] == {"texts put into Unicode's composed form (NFC)": 1}
    assert story["clips"] == 3 and story["speakers"] == 3
    assert story["hours"] == pytest.approx(sum(float(row["duration"]) for row in train) / 3600, abs=1e-4)
    assert story["characters"] == sum(len(row["tgt_text"]) for row in train)
    assert str(german / "de/validated.tsv") in story["sources"]
    assert "clip that is not in validated.tsv; first:" in result.stdout and "line 8" in result.stdout
    assert len(read_manifest(tmp_path / "out/train.tsv")) == 3


def test_a_part_of_the_clips_and_another_release_are_enough(german: Path, tmp_path: Path) -> None:
    lines = ["s\tc1.mp3\tx\tJa.\t\t2\t0\t\t\t\t\tde\t", "s\tc2.mp3\tx\tNein.\t\t2\t0\t\t\t\t\tde\t"]
    write_lines(german / "de/validated.tsv", [RELEASE_17, *lines], end="\r\n")
    (german / "de/clips/c2.mp3").unlink()
    (german / "de/clips/c3.mp3").write_text("no sound")
    manifest("covost2", german, "--output", tmp_path / "out", "--splits", "train").ok()
    assert [row["src_text"] for row in rows_of(tmp_path / "out/train.tsv")] == ["Ja."]
    count = story_of(tmp_path / "out", "train", lines=5)["rows"]["translate de-en"]
    assert count["dropped"]["no such audio file"] == 1
    assert count["dropped"]["clip that is not in validated.tsv"] == 3
    assert not (tmp_path / "out/test.tsv").exists()


def test_no_clips_at_all_is_one_line(german: Path, tmp_path: Path) -> None:
    for clip in (german / "de/clips").iterdir():
        clip.unlink()
    line = manifest("covost2", german, "--output", tmp_path / "out").user_error()
    assert "found none of 7 rows usable" in line and "no such audio file" in line and "clips/c1.mp3" in line
    assert not list((tmp_path / "out").iterdir())


def test_quotation_marks_of_csv_are_undone_when_asked(german: Path, tmp_path: Path) -> None:
    for options, text in (((), '"""Auf Wiedersehen,"" sagte sie."'), (("--unquote",), '"Auf Wiedersehen," sagte sie.')):
        output = tmp_path / f"out{len(options)}"
        manifest("covost2", german, "--output", output, "--splits", "dev", *options).ok()
        assert rows_of(output / "dev.tsv")[0]["src_text"] == text
    assert story_of(tmp_path / "out1", "dev")["changed"] == {"sentences whose CSV quoting was undone": 1}


def test_the_selection_of_verdini(german: Path, tmp_path: Path) -> None:
    """Two directions of English and three into it; each clip is transcribed once and translated, 0.1 to 30 s."""
    for lang in ("en", "es", "fr", "it"):
        clips = {f"{lang}{i}": f"text {i}" for i in range(3)}
        validated(german, lang, clips)
        pair = "en_de" if lang == "en" else f"{lang}_en"
        splits = zip(clips, ("train", "dev", "test"), strict=True)
        translated(german / lang, pair, [(name, "said", split) for name, split in splits])
    translated(german / "en", "en_tr", [("en0", "not chosen", "train")])
    tone(german / "de/clips/c1.mp3", 30.5)
    tone(german / "de/clips/c5.mp3", 31)
    manifest("covost2", german, "--output", tmp_path / "out", "--preset", "verdini").ok()
    story = story_of(tmp_path / "out", "train")
    assert {label: count["kept"] for label, count in story["rows"].items()} == {
        "transcribe en": 1, "translate en-de": 1, "transcribe de": 3, "translate de-en": 2, "transcribe es": 1,
        "translate es-en": 1, "transcribe fr": 1, "translate fr-en": 1, "transcribe it": 1, "translate it-en": 1,
    }  # fmt: skip
    assert story["rows"]["translate de-en"]["dropped"]["longer than --max-seconds"] == 1
    rows = {row["id"]: row for row in rows_of(tmp_path / "out/train.tsv")}
    assert (rows["c2.de"]["tgt_text"], rows["c2.de-en"]["tgt_text"], rows["c2.de-en"]["src_text"]) == (
        "None", "NA", "None"
    )  # fmt: skip
    assert rows["c2.de"]["audio"] == rows["c2.de-en"]["audio"]
    # Never from a test split.
    story = story_of(tmp_path / "out", "test")
    assert story["rows"]["translate de-en"]["kept"] == 1
    assert story["changed"] == {"test clips outside of --min-seconds and --max-seconds, kept": 1}


def test_transcripts_of_a_language_come_once(german: Path, tmp_path: Path) -> None:
    translated(german / "de", "de_fr", [("c1", "Oui", "train")])
    manifest("covost2", german, "--output", tmp_path / "out", "--tasks", "translate,transcribe").ok()
    rows = story_of(tmp_path / "out", "train")["rows"]
    assert {label: (count["read"], count["kept"]) for label, count in rows.items()} == {
        "transcribe de": (5, 4), "translate de-en": (5, 3), "translate de-fr": (1, 1),
    }  # fmt: skip


def test_broken_tables_are_one_line(german: Path, tmp_path: Path) -> None:
    table = german / "de/covost_v2.de_en.tsv"
    good = table.read_text()
    for old, new, expected in (
        ("\ttest\n", "\tfuture\n", "line 6, column 'split': found 'future', expected train, train_covost"),
        ("translation", "translated", "line 1: found columns 'path', 'translated', 'split'"),
    ):
        content = good.replace(old, new, 1)
        table.write_text(content)
        line = manifest("covost2", german, "--output", tmp_path / "out").user_error()
        assert line.startswith(str(table)) and expected in line
    table.write_bytes(good.encode().replace(b"Bye", b"B\xffe"))
    line = manifest("covost2", german, "--output", tmp_path / "out").user_error()
    assert line == f"{table}, line 5: found byte 0xff at byte 9 of the line, expected UTF-8"
    assert "expected some of de_en" in manifest("covost2", german, "--output", "x", "--pairs", "en_de").user_error()
    line = manifest("covost2", german / "de/clips", "--output", "x").user_error()
    assert "found no covost_v2.SRC_TGT.tsv" in line


def test_a_line_with_missing_columns_is_counted(german: Path, tmp_path: Path) -> None:
    table = german / "de/covost_v2.de_en.tsv"
    table.write_text(table.read_text() + "c1.mp3\tcut of\n")
    manifest("covost2", german, "--output", tmp_path / "out").ok()
    count = story_of(tmp_path / "out", "train", lines=6)["rows"]["translate de-en"]
    assert count["dropped"]["line with another number of columns than the header"] == 1


def test_parquet_with_the_sound_inside(tmp_path: Path) -> None:
    """Sound that cannot be named by a path goes into a stored archive, byte for byte; a row that only has a path, as
    `to_parquet` writes it, is found beside the shard or counted."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path / "hf/en_de"
    clips = [tone(tmp_path / f"c{i}.mp3", 0.4 + 0.1 * i, rate=48000).read_bytes() for i in range(3)]
    tone(folder / "beside.mp3", 1.0)
    audio = [{"bytes": data, "path": f"common_voice_en_{i}.mp3"} for i, data in enumerate(clips)]
    audio += [{"bytes": None, "path": "beside.mp3"}, {"bytes": None, "path": "gone.mp3"}, None]
    table = pyarrow.table({
        "client_id": ["a", "a", "b", "b", "b", "b"], "audio": audio, "sentence": [f'"s{i}' for i in range(6)],
        "translation": [f"t{i}" for i in range(6)], "id": [f"common_voice_en_{i}" for i in range(6)],
    })  # fmt: skip
    parquet.write_table(table, folder / "train-00000-of-00001.parquet")
    parquet.write_table(table.slice(0, 1), folder / "validation-00000-of-00001.parquet")

    manifest("covost2", tmp_path / "hf", "--output", tmp_path / "out").ok()
    rows = rows_of(tmp_path / "out/train.tsv")
    assert [row["id"] for row in rows] == [f"common_voice_en_{i}" for i in range(4)]
    for row, data in zip(rows, clips, strict=False):
        path, start, length = row["audio"].rsplit(":", 2)
        assert (tmp_path / "out" / path).read_bytes()[int(start) : int(start) + int(length)] == data
        sound_of(tmp_path / "out", row)
    assert rows[3]["audio"] == str(folder / "beside.mp3")
    count = story_of(tmp_path / "out", "train", lines=6)["rows"]["translate en-de"]
    assert count["dropped"] == {"no such audio file": 1, "row that names no sound": 1}
    story_of(tmp_path / "out", "dev", lines=1)
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1 cut off")
    line = manifest("covost2", tmp_path / "hf", "--output", tmp_path / "x").user_error()
    assert "train-00000-of-00001.parquet: cannot be read" in line and "expected parquet" in line
