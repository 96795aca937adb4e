"""Manifests and sound that are elsewhere: read from a web server as from here, in ranges, or refused in one line."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechllm_plugin.datasets.audio import AudioError, audio_key, duration, read_audio, resolve
from speechllm_plugin.datasets.manifest import open_manifest
from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.errors import UserError
from speechllm_plugin.files import requests
from tests.web_server import Site, serving


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path) as site:
        yield site


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(16000 * seconds))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_a_file_is_read_as_from_here(site: Site, tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, noise(3.0), 16000)
    here, there = resolve(name, tmp_path), resolve(f"{site.url}/{name}", Path())
    assert not site.sent, "nothing is asked before it is read"
    np.testing.assert_array_equal(read_audio(there), read_audio(here))
    assert duration(there) == duration(here)
    assert audio_key(there) != audio_key(here) and audio_key(there) == audio_key(resolve(f"{site.url}/{name}", Path()))
    assert site.sent[name] == [(0, (tmp_path / name).stat().st_size)] * 2, "a request a reading"


def test_of_an_archive_and_of_a_talk_the_ranges_alone_are_read(site: Site, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise(2.0, 1), 16000)
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("before", bytes(1000))
        archive.write(tmp_path / "a.flac", "a.flac")
        archive.writestr("behind", bytes(1000))
        start = archive.getinfo("a.flac").header_offset + 30 + len("a.flac")
    size = (tmp_path / "a.flac").stat().st_size
    entry = f"c.zip:{start}:{size}"
    found = read_audio(resolve(f"{site.url}/{entry}", Path()))
    np.testing.assert_array_equal(found, read_audio(resolve(entry, tmp_path)))
    assert site.sent["c.zip"] == [(start, start + size)]

    soundfile.write(tmp_path / "talk.wav", noise(600.0, 2), 16000)
    segment = f"talk.wav:{400 * 16000}:{2 * 16000}"
    found = read_audio(resolve(f"{site.url}/{segment}", Path()))
    np.testing.assert_array_equal(found, read_audio(resolve(segment, tmp_path)))
    assert sum(stop - begin for begin, stop in site.sent["talk.wav"]) < 0.1 * (tmp_path / "talk.wav").stat().st_size


def manifest_of(tmp_path: Path, clips: int = 4) -> None:
    rows = ["id\taudio\tn_frames\ttgt_text"]
    (tmp_path / "clips").mkdir()
    for clip in range(clips):
        soundfile.write(tmp_path / f"clips/{clip}.flac", noise(1.0 + clip / 10, clip), 16000)
        rows.append(f"c{clip}\tclips/{clip}.flac\t{98 + 10 * clip}\ttext {clip}")
    (tmp_path / "m.tsv").write_text("\n".join(rows) + "\n")


def batches_of(manifest: str, seed: int | None, **options: str) -> list[tuple[str, str, np.ndarray]]:
    rows = SpeechTextDataset(SpeechTextConfig(manifests={"all": manifest}, **options)).read("all")  # type: ignore[arg-type]
    reader = SpeechTextReader(rows, ReadOptions(limits=BatchLimits(2, None), shuffle_seed=seed, max_seconds=30.0))
    clips = [clip for step in reader for batch in step for clip in batch]
    return [(clip.id, clip.text, clip.waveform.numpy()) for clip in clips if clip.waveform is not None]


def test_a_corpus_elsewhere(site: Site, tmp_path: Path) -> None:
    manifest_of(tmp_path)
    expected = batches_of(str(tmp_path / "m.tsv"), 1)
    for found in (
        batches_of(f"{site.url}/m.tsv", 1),
        batches_of(str(tmp_path / "m.tsv"), 1, audio_root=site.url),
    ):
        assert [clip[:2] for clip in found] == [clip[:2] for clip in expected]
        assert all(np.array_equal(clip[2], other[2]) for clip, other in zip(found, expected, strict=True))
    assert set(site.sent) == {"m.tsv", *(f"clips/{clip}.flac" for clip in range(4))}


def test_a_server_that_does_not_answer_ends_a_run_at_its_first_file(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "_LONGEST_WAIT", 0.01)
    site.fails_each = 1
    rows = [f"c{clip}\t{site.url}/{clip}.wav\ttext" for clip in range(600)]
    (tmp_path / "m.tsv").write_text("\n".join(["id\taudio\ttgt_text", *rows]) + "\n")
    with pytest.raises(UserError, match="line 2, id c0, column 'audio': .*503"):
        batches_of(str(tmp_path / "m.tsv"), 1)
    # Threads of three blocks had begun.
    assert site.requests < 60


def test_what_is_wrong_is_one_line(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest_of(tmp_path)
    (tmp_path / "clips/2.flac").unlink()
    with pytest.raises(UserError) as caught:
        batches_of(f"{site.url}/m.tsv", 1)
    where = f"{site.url}/m.tsv, line 4, id c2, column 'audio': clips/2.flac: "
    assert str(caught.value).startswith(f"{where}found no such file at {site.url}/clips/2.flac, expected an audio")
    with pytest.raises(UserError, match="none.tsv: found no such file, expected a TSV file"):
        open_manifest(f"{site.url}/none.tsv")
    with pytest.raises(AudioError, match="^bogus://x/a.wav: .* cannot be read .*bogus.*, expected a readable file"):
        read_audio(resolve("bogus://x/a.wav", Path()))
    with pytest.raises(AudioError, match="found a range of length 0, expected at least 1"):
        resolve(f"{site.url}/talk.wav:5:0", Path())
    soundfile.write(tmp_path / "talk.flac", noise(600.0), 16000)
    site.breaks_after = 3 << 20
    monkeypatch.setattr(requests, "_LONGEST_WAIT", 0.01)
    with pytest.raises(AudioError, match="talk.flac: cannot be read .*500.*asked 12 times") as failed:
        read_audio(resolve(f"{site.url}/talk.flac", Path()))
    assert "\n" not in str(failed.value)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UserError, match=r"m2.tsv: cannot be read \(needs fsspec: pip install 'speechllm-plugin"):
        open_manifest(f"{site.url}/m2.tsv")
