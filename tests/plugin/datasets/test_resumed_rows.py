"""A checkpoint is resumed over the rows that it was written over, in their order, and over no others in silence."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.same_rows import row_digests
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.errors import UserError

HEADER = ("id", "audio", "n_frames", "tgt_text", "src_text", "src_lang", "tgt_lang")
Rows = list[tuple[str, ...]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Clips of equal length, so that only what is written in the manifest tells them apart."""
    folder = tmp_path_factory.mktemp("clips")
    found = []
    for i in range(6):
        soundfile.write(folder / f"{i}.wav", np.full(8000, (i + 1) / 10), 16000)
        found.append((f"c{i}", str(folder / f"{i}.wav"), "48", f"text {i}", f"what is said {i}", "en", "de"))
    return found


def reader_of(rows: Rows, folder: Path, **options: Any) -> SpeechTextReader:
    file = folder / "rows.tsv"
    file.write_text("".join("\t".join(row) + "\n" for row in (HEADER, *rows)))
    dataset = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(file)}))
    limits = BatchLimits(options.pop("batch_size", 2), None)
    read = ReadOptions(limits=limits, shuffle_seed=1, max_seconds=30.0, **options)
    return SpeechTextReader(dataset.read("all"), read)


def state_after_a_step(rows: Rows, folder: Path) -> dict[str, Any]:
    reader = reader_of(rows, folder)
    next(reader)
    return reader.state_dict()


def changed(rows: Rows, column: str, value: str) -> Rows:
    place = HEADER.index(column)
    return [*rows[:-1], (*rows[-1][:place], value, *rows[-1][place + 1 :])]


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("id", "other", "id"),
        ("audio", "", "audio"),  # the first row's
        ("tgt_text", "text 5 now", "tgt_text"),
        ("src_text", "", "src_text"),
        ("src_lang", "fr", "languages"),
        ("tgt_lang", "fr", "languages"),
        ("n_frames", "49", "lengths"),
    ],
)
def test_one_other_field_is_other_data(rows: Rows, tmp_path: Path, column: str, value: str, told: str) -> None:
    state = state_after_a_step(rows, tmp_path)
    reader = reader_of(changed(rows, column, value or (rows[0][1] if column == "audio" else "")), tmp_path)
    with pytest.raises(UserError) as caught:
        reader.load_state_dict(state)
    line = str(caught.value)
    assert line.startswith("resume: the checkpoint was written over other rows: 6 clips, 3.0 s; found 6 clips, 3.0 s")
    assert f"with other {told}; expected the same manifests in the same order, or dataset.accept_new_rows=true" in line
    assert "\n" not in line


WAYS: dict[str, dict[str, Any]] = {
    "as they are written": {},
    "some of them": {"taken": [0, 2, 3, 5]},
    "in another order": {"taken": [3, 0, 5]},
    "with texts that are cleaned": {"clean_text": "entities"},
    "of two manifests": {"files": 2},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("more", [(), ("channel",), ("task",), ("instruction",)], ids=str)
def test_the_hash_of_a_column_is_that_of_its_values(
    rows: Rows, tmp_path: Path, way: str, more: tuple[str, ...]
) -> None:
    """Whether the column is taken from the file or from row after row: checkpoints hold it."""
    options = dict(WAYS[way])
    taken, files = options.pop("taken", None), options.pop("files", 1)
    values = {"channel": "1", "task": "translate", "instruction": "say it"}
    added = [values[name] for name in more]
    table = [(*HEADER, *more), *((*row[:3], f"{row[3]} &amp;", *row[4:], *added) for row in rows)]
    paths = []
    for number in range(files):
        paths.append(str(tmp_path / f"{number}.tsv"))
        lines = ["\t".join((f"{row[0]}{number if place else ''}", *row[1:])) for place, row in enumerate(table)]
        Path(paths[-1]).write_text("\r\n".join(lines) + "\r\n")
    utterances = SpeechTextDataset(SpeechTextConfig(manifests={"all": paths}, **options)).read("all")
    utterances = utterances if taken is None else utterances.take(np.array(taken))
    found = row_digests(utterances, np.full(len(utterances), 0.5), of_splits=True)
    every = list(utterances)
    columns = {
        "id": [one.row.id for one in every],
        "audio": [f"{one.row.audio} 1" if "channel" in more else one.row.audio for one in every],
        "tgt_text": [one.row.tgt_text for one in every],
        "src_text": [one.row.src_text for one in every],
        "languages": [("en", "de")] * len(every),
        "split": ["all"] * len(every),
        "lengths": [0.5] * len(every),
        **({"task": ["translate"] * len(every)} if "task" in more else {}),
        **({"asks": [one.row.asks for one in every]} if "instruction" in more else {}),
    }
    assert found == {
        name: hashlib.sha256("".join(f"{value}\n" for value in values).encode()).hexdigest()[:16]
        for name, values in columns.items()
    }
    assert ("&amp;" in every[0].row.tgt_text) == ("clean_text" not in WAYS[way])


def test_another_order_and_another_number_are_other_data(rows: Rows, tmp_path: Path) -> None:
    state = state_after_a_step(rows, tmp_path)
    with pytest.raises(UserError, match="found 6 clips, 3.0 s with other id, audio, tgt_text, src_text; expected"):
        reader_of(rows[::-1], tmp_path).load_state_dict(state)
    with pytest.raises(UserError, match="6 clips, 3.0 s; found 5 clips, 2.5 s; expected"):
        reader_of(rows[1:], tmp_path).load_state_dict(state)


def test_what_changes_no_row_is_resumed(rows: Rows, tmp_path: Path) -> None:
    """Another name of a language, columns in another order, a speaker."""
    state = state_after_a_step(rows, tmp_path)
    resumed = reader_of(changed(rows, "src_lang", "English"), tmp_path, num_threads=1, prefetch=1)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state


def test_new_rows_can_be_accepted(rows: Rows, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = state_after_a_step(rows, tmp_path)
    reader = reader_of(changed(rows, "tgt_text", "better")[1:], tmp_path, accept_new_rows=True)
    reader.load_state_dict(state)
    (line,) = [message for message in caplog.messages if message.startswith("resume: ")]
    assert "6 clips, 3.0 s; found 5 clips, 2.5 s; accepted (dataset.accept_new_rows), and a new epoch begins" in line
    # All of them, in the order of the second epoch.
    steps = [tuple(batch.ids) for step in reader for batch in step]
    assert sorted(clip for batch in steps for clip in batch) == ["c1", "c2", "c3", "c4", "c5"]
    fresh = reader_of(changed(rows, "tgt_text", "better")[1:], tmp_path)
    list(fresh)
    fresh.reset()
    assert [tuple(batch.ids) for step in fresh for batch in step] == steps
    # From then on they are the rows of the run.
    caplog.clear()
    reader_of(changed(rows, "tgt_text", "better")[1:], tmp_path).load_state_dict(reader.state_dict())
    assert not [message for message in caplog.messages if message.startswith("resume: ")]
    # How the rows are read is another matter.
    with pytest.raises(UserError, match="'batch_size': 2.*'batch_size': 3.*expected the same manifests, batch"):
        reader_of(rows, tmp_path, batch_size=3, accept_new_rows=True).load_state_dict(state)


def test_a_checkpoint_from_before_rows_were_told_is_resumed(
    rows: Rows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = state_after_a_step(rows, tmp_path)
    del state["plan"]["rows"]
    reader = reader_of(rows, tmp_path)
    reader.load_state_dict(state)
    (line,) = [message for message in caplog.messages if message.startswith("resume: ")]
    assert "an earlier version and does not tell which rows it read; resumed over as many clips and seconds" in line
    assert len(list(reader)) == 2
    with pytest.raises(UserError, match="written over other rows: 6 clips, 3.0 s; found 5 clips, 2.5 s; expected"):
        reader_of(rows[1:], tmp_path).load_state_dict(state)
