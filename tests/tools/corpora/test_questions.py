"""HeySQuAD and VoiceBench in the layouts of the hub."""

from __future__ import annotations

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
