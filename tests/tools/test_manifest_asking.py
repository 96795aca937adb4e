"""`speechllm manifest` over rows that ask something: checked, and moved with the speech of their earlier turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tools.corpora.layouts import manifest, rows_of, tone, write_lines

COLUMNS = ("id", "audio", "tgt_text", "task", "instruction", "history", "references")


def turns(audio: str) -> str:
    answer = {"role": "assistant", "content": "größer"}
    return json.dumps([{"role": "user", "audio": audio}, answer], ensure_ascii=False)


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    for number, row in enumerate(rows):
        row.update({"id": f"u{number}", "audio": "clips/a.wav", "tgt_text": "yes"})
    return write_lines(path, ["\t".join(COLUMNS), *("\t".join(row.get(name, "") for name in COLUMNS) for row in rows)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tone(tmp_path / "data/clips/a.wav", 0.5)
    tone(tmp_path / "data/clips/b.wav", 0.7)
    return tmp_path / "data"


def test_earlier_speech_is_found_from_the_new_place(folder: Path, tmp_path: Path) -> None:
    path = table(folder / "all.tsv", [{"history": turns("clips/b.wav")}, {"history": turns("/far/b.wav:0:9")}, {}])
    outputs = {"filter": tmp_path / "x/f.tsv", "mix": tmp_path / "m.tsv", "split": tmp_path / "p/one.tsv",
               "phrases": folder / "p.tsv"}  # fmt: skip
    (tmp_path / "names.txt").write_text("yes\n")
    manifest("filter", path, "--min-seconds", "0.1", "--output", outputs["filter"]).ok()
    manifest("mix", path, "--output", outputs["mix"]).ok()
    manifest("split", path, "--parts", "one=*", "--output", tmp_path / "p").ok()
    manifest("phrases", path, "--list", tmp_path / "names.txt", "--output", outputs["phrases"]).ok()
    for action, output in outputs.items():
        first, second, third = sorted(rows_of(output), key=lambda row: row["id"])
        place = {"mix": "data/clips/b.wav", "phrases": "clips/b.wav"}.get(action, str(folder / "clips/b.wav"))
        assert first["history"] == turns(place) and second["history"] == turns("/far/b.wav:0:9"), action
        assert third["history"] == "" and (output.parent / first["audio"]).is_file()


def test_what_they_ask_is_checked(folder: Path) -> None:
    path = table(folder / "all.tsv", [
        {"history": turns("clips/b.wav"), "references": '["no"]', "task": "answer"},
        {"history": turns("clips/gone.wav")}, {"history": "[{"}, {"instruction": "<speech><speech>"},
        {"task": "sing"}, {"references": "no"},
    ])  # fmt: skip
    result = manifest("validate", path, "--workers", 1)
    assert result.user_error() == "found 5 wrong rows, expected none"
    for line, column, words in (
        (3, "history", "clips/gone.wav: found no such file"),
        (4, "history", "found '[{', expected [{"),
        (5, "instruction", "expected one place for the speech"),
        (6, "task", "found 'sing', expected one of answer, transcribe, translate"),
        (7, "references", "found 'no', expected a JSON list of answers"),
    ):
        (told,) = [text for text in result.stdout.splitlines() if text.startswith(f"{path}, line {line}, ")]
        assert f"column '{column}'" in told and words in told
