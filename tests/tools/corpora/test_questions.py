"""Spoken-SQuAD in its own layout, HeySQuAD and VoiceBench in those of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speechllm_plugin.datasets.manifest import read_manifest
from tests.tools.corpora.layouts import manifest, rows_of, sound_of, story_of, tone

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def shard(path: Path, rows: list[dict[str, Any]]) -> None:
    """A shard with the sound inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        file = tone(path.parent / f"{number}.wav", 0.5 + 0.1 * number)
        row["audio"] = {"bytes": file.read_bytes(), "path": file.name}
        file.unlink()
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_heysquad(tmp_path: Path) -> None:
    rows = [
        {"id": "56be", "question": "Which team won?", "transcription": "which team one", "is_impossible": False,
         "context": "The game was\nplayed in 2016.", "answers": [{"answer_start": 0, "text": "Denver Broncos"},
                                                                 {"answer_start": 4, "text": "Broncos"}]},
        {"id": "56bf", "question": "Who lost?", "transcription": "who lost", "is_impossible": True,
         "context": "Nobody says.", "answers": []},
    ]  # fmt: skip
    shard(tmp_path / "hub/data/validation-00000-of-00001.parquet", rows)
    manifest("heysquad", tmp_path / "hub", "--output", tmp_path / "out", "--workers", 1).ok()
    (row,) = rows_of(tmp_path / "out/validation.tsv")
    assert (row["id"], row["task"], row["src_text"]) == ("56be", "answer", "Which team won?")
    assert (row["tgt_text"], row["context"]) == ("Denver Broncos", "The game was played in 2016.")
    assert row["references"] == '["Broncos"]'
    sound_of(tmp_path / "out", row)
    story = story_of(tmp_path / "out", "validation", lines=2)
    assert story["rows"]["answer en"]["dropped"] == {"question that its paragraph does not answer": 1}
    assert read_manifest(tmp_path / "out/validation.tsv")[0].task == "answer"


def test_voicebench(tmp_path: Path) -> None:
    root = tmp_path / "voicebench"
    shard(root / "sd-qa/usa-00000-of-00001.parquet", [{"prompt": "Who wrote it?", "reference": "Anna"}])
    shard(root / "alpacaeval/test-00000-of-00001.parquet", [{"prompt": "Tell a story.", "output": "Once"}] * 2)
    shard(root / "mtbench/test-00000-of-00001.parquet", [{"turns": ["One?", "Two?"]}])
    manifest("voicebench", root, "--output", tmp_path / "out", "--workers", 1).ok()
    assert sorted(file.stem for file in (tmp_path / "out").glob("*.tsv")) == ["alpacaeval-test", "sd-qa-usa"]
    (row,) = rows_of(tmp_path / "out/sd-qa-usa.tsv")
    assert (row["tgt_text"], row["src_text"], row["task"]) == ("Anna", "Who wrote it?", "answer")
    rows = read_manifest(tmp_path / "out/alpacaeval-test.tsv", require_text=False)
    assert [(row.id, row.tgt_text, row.src_text) for row in rows] == [
        ("alpacaeval-test-1", "", "Tell a story."), ("alpacaeval-test-2", "", "Tell a story."),
    ]  # fmt: skip
    line = manifest("voicebench", root, "--splits", "mtbench-test", "--output", tmp_path / "two").user_error()
    assert "mtbench/test-00000-of-00001.parquet: found columns" in line and "'prompt'" in line


def test_spoken_squad(tmp_path: Path) -> None:
    root, output = tmp_path / "Spoken-SQuAD", tmp_path / "out"
    asked = [
        {"id": "56be", "question": "Which team won?", "answers": [{"answer_start": 4, "text": "denver broncos"},
                                                                  {"answer_start": 4, "text": "denver broncos"},
                                                                  {"answer_start": 11, "text": "broncos"}]},
        {"id": "56bf", "question": "Who lost?", "answers": [{"answer_start": 9, "text": "panthers"}]},
    ]  # fmt: skip
    paragraphs = [{"context": "the denver broncos", "qas": asked}, {"context": "nothing is asked", "qas": []},
                  {"context": "a hole", "qas": [{**asked[1], "id": "hole"}]},
                  {"context": "no sound", "qas": [{**asked[1], "id": "none"}]}]  # fmt: skip
    root.mkdir()
    data = {"version": "1.1", "data": [{"title": "Super_Bowl_50", "paragraphs": paragraphs}]}
    (root / "spoken_test-v1.1.json").write_text(json.dumps(data))
    line = manifest("spoken-squad", root, "--output", output).user_error()
    assert line == f"{root}/dev_wav: found no such folder, expected the sound of the split test"
    for name, seconds in (("0_0_0", 0.5), ("0_0_1", 0.7), ("0_0_2", 0.1), ("0_2_1", 0.5)):
        tone(root / f"Spoken-SQuAD_audio/dev_wav/{name}.wav", seconds, rate=24000)
    manifest("spoken-squad", root, "--output", output, "--workers", 1).ok()
    first, second = rows_of(output / "test.tsv")
    assert (first["id"], first["task"], first["instruction"]) == ("56be", "answer", "Which team won?")
    assert (first["tgt_text"], first["references"], second["references"]) == ("denver broncos", '["broncos"]', "")
    assert first["audio"] == second["audio"] == "paragraphs/test/0_0.flac"
    assert len(sound_of(output, first)) == round(1.3 * 16000)
    story = story_of(output, "test", lines=4)
    assert story["rows"]["answer en"]["dropped"] == {"paragraph that lacks a sentence": 1, "no such audio file": 1}
    rows = read_manifest(output / "test.tsv")
    assert rows[0].references == ("broncos",) and rows[0].asks.instruction == "Which team won?"
