"""`speechllm manifest librispeech`, `mls`, `common-voice` and `fleurs`."""

from __future__ import annotations

from pathlib import Path

from tests.tools.corpora.layouts import manifest, rows_of, sound_of, story_of, tone, write_lines


def test_librispeech(tmp_path: Path) -> None:
    root = tmp_path / "LibriSpeech"
    chapter = root / "train-clean-100/103/1240"
    for number in range(3):
        tone(chapter / f"103-1240-{number:04d}.flac", 0.5)
    write_lines(chapter / "103-1240.trans.txt", [
        "103-1240-0000 CHAPTER ONE MISSUS RACHEL LYNDE", "103-1240-0001", "103-1240-0009 NOT THERE",
    ])  # fmt: skip
    tone(root / "test-clean/7/8/7-8-0000.flac", 0.6)
    write_lines(root / "test-clean/7/8/7-8.trans.txt", ["7-8-0000 A TEST"])
    manifest("librispeech", root, "--output", tmp_path / "out", "--case", "lower").ok()
    (row,) = rows_of(tmp_path / "out/train-clean-100.tsv")
    assert (row["id"], row["tgt_text"], row["speaker"], row["src_lang"], row["tgt_lang"]) == (
        "103-1240-0000", "chapter one missus rachel lynde", "103", "en", "en"
    )  # fmt: skip
    sound_of(tmp_path / "out", row)
    # Three lines, and a clip that no line tells of.
    count = story_of(tmp_path / "out", "train-clean-100", lines=4)["rows"]["transcribe en"]
    assert count["dropped"] == {"empty transcript": 1, "no such audio file": 1, "clip with no transcript": 1}
    assert rows_of(tmp_path / "out/test-clean.tsv")[0]["tgt_text"] == "a test"
    manifest("librispeech", root, "--output", tmp_path / "test", "--splits", "test-clean").ok()
    assert rows_of(tmp_path / "test/test-clean.tsv")[0]["tgt_text"] == "A TEST"
    line = manifest("librispeech", root, "--output", "x", "--splits", "test-other").user_error()
    assert line == f"--splits: found 'test-other', expected some of test-clean, train-clean-100, as in {root}"
    assert "found no split of the corpus" in manifest("librispeech", root / "test-clean", "--output", "x").user_error()


def test_mls(tmp_path: Path) -> None:
    root = tmp_path / "mls_german"
    tone(root / "train/audio/10148/10119/10148_10119_000000.flac", 0.5)
    tone(root / "train/audio/10148/10119/10148_10119_000001.ogg", 0.5)
    write_lines(root / "train/transcripts.txt", [
        '10148_10119_000000\tund "so weiter', "10148_10119_000001\tzwei", "10148_10119_000002\tfehlt", "kein tab",
    ])  # fmt: skip
    manifest("mls", root, "--output", tmp_path / "out").ok()
    rows = rows_of(tmp_path / "out/train.tsv")
    assert [(row["tgt_text"], row["src_lang"], row["speaker"]) for row in rows] == [
        ('und "so weiter', "de", "10148"), ("zwei", "de", "10148"),
    ]  # fmt: skip
    count = story_of(tmp_path / "out", "train", lines=4)["rows"]["transcribe de"]
    assert count["dropped"] == {"no such audio file": 1, "line that is not an id, a tab and a transcript": 1}
    other = root.rename(tmp_path / "books")
    assert "expected a language" in manifest("mls", other, "--output", "x").user_error()
    manifest("mls", other, "--output", tmp_path / "pl", "--lang", "pl").ok()
    assert rows_of(tmp_path / "pl/train.tsv")[0]["tgt_lang"] == "pl"


def test_common_voice(tmp_path: Path) -> None:
    root = tmp_path / "cv-corpus-6.1/sv-SE"
    for name in ("a", "b"):
        tone(root / f"clips/{name}.mp3", 0.5, rate=32000)
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\tlocale\tsegment"
    rest = "\t2\t0\t\t\t\tsv-SE\t"
    # The earliest releases write no ending.
    lines = [header, f'x\ta.mp3\t"Hej, sa ""du"""{rest}', f"y\tb\tTv\u00e5{rest}", f"y\tc.mp3\tTre{rest}", "cut\toff"]
    for split in ("train", "validated"):
        write_lines(root / f"{split}.tsv", lines)
    manifest("common-voice", root, "--output", tmp_path / "out", "--unquote").ok()
    rows = rows_of(tmp_path / "out/train.tsv")
    assert [(row["id"], row["tgt_text"], row["src_lang"]) for row in rows] == [
        ("a", 'Hej, sa "du"', "sv-SE"), ("b", "Två", "sv-SE"),
    ]  # fmt: skip
    story = story_of(tmp_path / "out", "train", lines=4)
    assert story["rows"]["transcribe sv-SE"]["dropped"] == {
        "no such audio file": 1, "line with another number of columns than the header": 1,
    }  # fmt: skip
    assert story["changed"] == {"sentences whose CSV quoting was undone": 1}
    assert not (tmp_path / "out/validated.tsv").exists()
    manifest("common-voice", root, "--output", tmp_path / "all", "--splits", "validated").ok()
    story_of(tmp_path / "all", "validated", lines=4)


def test_fleurs(tmp_path: Path) -> None:
    """No header, quotation marks as they are, a sentence read by two, translations by the sentence's number."""
    root = tmp_path / "fleurs"
    for lang, rows in {
        "de_de": [("1", "10", 'Er sagte: "Ja'), ("1", "11", 'Er sagte: "Ja'), ("2", "12", "Nein"), ("3", "13", "Drei")],
        "en_us": [("1", "20", 'He said: "Yes'), ("3", "21", "Three")],
    }.items():
        lines = [f"{number}\t{name}.wav\t{text}\t{text.lower()}\tj | a\t8000\tMALE" for number, name, text in rows]
        write_lines(root / lang / "train.tsv", lines)
        for _, name, _ in rows[:3]:
            tone(root / lang / "audio/train" / f"{name}.wav", 0.5)
    tone(root / "de_de/train/13.wav", 0.5)  # as the archive unpacks it
    write_lines(root / "de_de/test.tsv", ["too\tshort"])
    manifest("fleurs", root, "--from", "de_de", "--to", "en_us", "--splits", "train", "--output", tmp_path / "st").ok()
    rows = rows_of(tmp_path / "st/train.tsv")
    assert [(row["id"], row["src_text"], row["tgt_text"]) for row in rows] == [
        ("10", 'Er sagte: "Ja', 'He said: "Yes'), ("11", 'Er sagte: "Ja', 'He said: "Yes'), ("13", "Drei", "Three"),
    ]  # fmt: skip
    count = story_of(tmp_path / "st", "train", lines=4)["rows"]["translate de-en"]
    assert count["dropped"] == {"empty translation": 1}
    for row in rows:
        sound_of(tmp_path / "st", row)

    result = manifest("fleurs", root, "--from", "de_de", "--output", tmp_path / "asr", "--normalized").ok()
    assert rows_of(tmp_path / "asr/train.tsv")[0]["tgt_text"] == 'er sagte: "ja'
    assert "test: no manifest, for none of its 1 rows is usable" in result.stdout
    assert not (tmp_path / "asr/test.tsv").exists()
    line = manifest("fleurs", root, "--from", "de_de", "--to", "en_us", "--output", "x").user_error()
    assert line == f"{root / 'en_us'}: found no test.tsv, expected the translations there"
    line = manifest("fleurs", root, "--from", "de_de", "--output", "x", "--tasks", "translate").user_error()
    assert line == "--tasks: found translate without a language, expected --to LANG"
