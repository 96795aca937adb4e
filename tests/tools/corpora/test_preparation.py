"""What all corpora share: stored sound, processes that are killed, and places that cannot be written."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speechllm_tools.prepare.api import is_test

from speechllm_plugin.datasets.audio import read_audio, resolve
from speechllm_plugin.datasets.manifest import read_manifest
from tests.commands import environment
from tests.tools.corpora.layouts import manifest, rows_of, sound_of, story_of, tone, write_lines
from tests.waiting import LONGEST, wait_until


def corpus(folder: Path, clips: int, seconds: float = 0.2, rate: int = 16000, name: str = "c{}") -> Path:
    """A table of `clips` clips, of one sound."""
    first = tone(folder / "clip.wav", seconds, rate)
    names = [f"{name.format(i)}.wav" for i in range(clips)]
    for clip in names:
        os.link(first, folder / clip)
    return write_lines(folder / "train.tsv", ["audio\ttgt_text", *(f"{clip}\ttext" for clip in names)])


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ("flac", "zip"))
def test_sound_is_stored_at_16_khz(tmp_path: Path, kind: str) -> None:
    """Names of any letters, a rate of its own, and a segment of a longer file; archives are cut at their limit."""
    table = corpus(tmp_path / "in", 4, seconds=1.0, rate=22050, name="größe {} 的")
    with open(table, "a") as file:
        file.write("clip.wav:11025:5000\ttext\n")
    manifest("table", table, "--output", tmp_path / "out", "--audio", kind, "--zip-gb", "0.00002").ok()
    rows = rows_of(tmp_path / "out/train.tsv")
    assert len(rows) == 5
    for row in rows:
        assert row["audio"].startswith("sound-")
        original = read_audio(resolve("clip.wav:11025:5000" if row is rows[4] else "clip.wav", tmp_path / "in"))
        samples = sound_of(tmp_path / "out", row)
        assert float(row["duration"]) == len(samples) / 16000
        assert np.abs(samples - original).max() < 1e-4
    archives = sorted((tmp_path / "out").rglob("*.zip"))
    assert all(archive.stat().st_size <= 20_000 for archive in archives)
    if kind == "zip":
        assert len(archives) > 1
        entries = [entry for archive in archives for entry in zipfile.ZipFile(archive).infolist()]
        assert len(entries) == 5 and {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}


def test_sound_beyond_full_scale_is_clipped_and_counted(tmp_path: Path) -> None:
    table = corpus(tmp_path, 1)
    soundfile.write(tmp_path / "c0.wav", np.full(1600, 1.5), 16000, subtype="FLOAT")
    manifest("table", table, "--output", tmp_path / "out", "--audio", "flac").ok()
    samples = sound_of(tmp_path / "out", rows_of(tmp_path / "out/train.tsv")[0])
    assert samples.max() > 0.99 and samples.min() > 0.9
    assert story_of(tmp_path / "out", "train")["changed"] == {"clips beyond full scale, clipped in FLAC": 1}


def test_paths_relative_to_a_root(tmp_path: Path) -> None:
    table = corpus(tmp_path / "data/in", 1)
    manifest("table", table, "--output", tmp_path / "out", "--audio-root", tmp_path / "data").ok()
    assert rows_of(tmp_path / "out/train.tsv")[0]["audio"] == "in/c0.wav"
    manifest("table", table, "--output", tmp_path / "data").ok()
    assert rows_of(tmp_path / "data/train.tsv")[0]["audio"] == "in/c0.wav"


def test_manifests_are_replaced_only_when_asked(tmp_path: Path) -> None:
    table = corpus(tmp_path / "in", 2)
    manifest("table", table, "--output", tmp_path / "out").ok()
    before = (tmp_path / "out/train.tsv").read_bytes()
    table.write_text(table.read_text().replace("c1.wav\ttext", "c1.wav\tother"))
    line = manifest("table", table, "--output", tmp_path / "out").user_error()
    assert line == f"--output: found {tmp_path / 'out/train.tsv'}, expected no manifest at its place, or --overwrite"
    assert (tmp_path / "out/train.tsv").read_bytes() == before
    manifest("table", table, "--output", tmp_path / "out", "--overwrite").ok()
    assert rows_of(tmp_path / "out/train.tsv")[1]["tgt_text"] == "other"


def test_after_a_kill_the_same_command_goes_on_to_the_same_files(tmp_path: Path) -> None:
    """Whole or not at all: no manifest before the end, and what was stored is not stored again."""
    table = corpus(tmp_path / "in", 1010, seconds=0.05)
    argv = ["table", table, "--audio", "zip", "--workers", "1", "--output"]
    manifest(*argv, tmp_path / "whole").ok()
    command = [sys.executable, "-m", "speechllm_tools.cli", "manifest", *map(str, argv), str(tmp_path / "out")]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    chunk = tmp_path / "out/.preparing/000000.json"
    wait_until(lambda: chunk.exists() or process.poll() is not None, "the first chunk is prepared")
    assert process.poll() is None
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    assert process.wait(LONGEST) == -signal.SIGKILL
    # Its processes end with it; they do not wait for work for ever.
    assert workers
    wait_until(lambda: not any(is_running(worker) for worker in workers), "they end with it")
    assert not list((tmp_path / "out").glob("*.tsv")) and not list((tmp_path / "out").glob("*.json"))
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("sound-*/00000-*.zip")}
    assert len(stored) == 1
    result = manifest(*argv, tmp_path / "out").ok()
    assert "going on after " in result.stdout
    assert {path: path.stat().st_mtime_ns for path in stored} == stored
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole")


def test_another_preparation_takes_nothing_from_a_killed_one(tmp_path: Path) -> None:
    table = corpus(tmp_path / "in", 2)
    (tmp_path / "out/.preparing").mkdir(parents=True)
    (tmp_path / "out/.preparing/.started").write_text("of another table")
    wrong = [{"audio": "x", "seconds": 9, "reason": None, "message": "", "changes": []}] * 2
    (tmp_path / "out/.preparing/000000.json").write_text(json.dumps(wrong))
    assert "going on" not in manifest("table", table, "--output", tmp_path / "out").ok().stdout
    assert [row["duration"] for row in rows_of(tmp_path / "out/train.tsv")] == ["0.2", "0.2"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train.json", "train.tsv"]


def is_running(process: str) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_clips_that_come_after_a_kill_are_taken(tmp_path: Path) -> None:
    """A corpus that is still being unpacked: what an earlier run missed is looked for again."""
    table = corpus(tmp_path / "in", 3)
    clip = (tmp_path / "in/c1.wav").rename(tmp_path / "c1.wav")
    # All is done but the last step, which puts the manifest at its place.
    (tmp_path / "out/train.tsv").mkdir(parents=True)
    assert "cannot be written" in manifest("table", table, "--output", tmp_path / "out", "--overwrite").user_error()
    (tmp_path / "out/train.tsv").rmdir()
    clip.rename(tmp_path / "in/c1.wav")
    result = manifest("table", table, "--output", tmp_path / "out").ok()
    assert "going on after 1 chunks" in result.stdout
    assert [row["id"] for row in rows_of(tmp_path / "out/train.tsv")] == ["c0-2", "c1-3", "c2-4"]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a full disk does: writing fails in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", ("keep", "flac", "zip"))
def test_a_disk_that_fills_up_is_one_line(tmp_path: Path, kind: str) -> None:
    """In what a run keeps, in a clip, in an archive, and in the manifest."""
    table = corpus(tmp_path / "in", 60, seconds=0.3)
    table.write_text(table.read_text().replace("\ttext", "\t" + "text " * 100))
    argv = ("table", table, "--output", tmp_path / "out", "--audio", kind)
    for size in (3000, 20_000) if kind == "keep" else (1500,) if kind == "flac" else (20_000,):
        with files_of_at_most(size):
            line = manifest(*argv).user_error()
        assert "cannot be written (File too large), expected a writable place" in line
        assert not list((tmp_path / "out").glob("train.*"))
    manifest(*argv).ok()
    story_of(tmp_path / "out", "train", lines=60)


def test_options_out_of_their_range_are_one_line(tmp_path: Path) -> None:
    table = corpus(tmp_path / "in", 1)
    for options, expected in (
        (("--min-seconds", "3", "--max-seconds", "1"), "--min-seconds, --max-seconds: found 3 and 1"),
        (("--min-seconds", "nan"), "--min-seconds, --max-seconds: found nan and inf"),
        (("--zip-gb", "0"), "--zip-gb: found 0, expected more than 0"),
        (("--workers", "0"), "--workers: found 0, expected at least 1"),
        (("--tasks", "speak"), "--tasks: found 'speak', expected transcribe or translate"),
    ):
        assert expected in manifest("table", table, "--output", tmp_path / "out", *options).user_error()
    (tmp_path / "file").write_text("")
    assert "cannot be written" in manifest("table", table, "--output", tmp_path / "file/out").user_error()


def test_any_text_goes_through_a_manifest_and_back(tmp_path: Path) -> None:
    """Read by our reader and by the rules of fairseq's: as it stood, but for tabs, line ends, and composed letters."""
    letters = [*'"\'\\\t\r\n, ß的🎧\u2028\u0085\x0b', '\\"', "a\u0308", "NA"]
    draw = random.Random(0)
    texts = ["x" + "".join(draw.choices(letters, k=draw.randrange(12))) + "y" for _ in range(400)]
    tone(tmp_path / "clip.wav", 0.2)
    lines = [json.dumps({"id": f"u{i}", "audio": "clip.wav", "tgt_text": text}) for i, text in enumerate(texts)]
    table = write_lines(tmp_path / "train.jsonl", lines)
    manifest("table", table, "--output", tmp_path / "out").ok()
    expected = [re.sub("[\t\r\n]+", " ", unicodedata.normalize("NFC", text)) for text in texts]
    assert [row["tgt_text"] for row in rows_of(tmp_path / "out/train.tsv")] == expected
    assert [row.tgt_text for row in read_manifest(tmp_path / "out/train.tsv")] == expected
    story = story_of(tmp_path / "out", "train", lines=400)
    assert story["changed"]["texts whose tabs and line ends became spaces"] == sum(
        re.search("[\t\r\n]", text) is not None for text in texts
    )


def test_a_split_is_for_testing_by_its_name() -> None:
    for name in ("test", "test-clean", "tst-COMMON", "de_en_test.tsv", "test_st_de_en.tsv"):
        assert is_test(name)
    for name in ("train", "contest", "latest.tsv", "testimony", "dev"):
        assert not is_test(name)
