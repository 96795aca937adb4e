"""`speechllm manifest table` over cuts of lhotse, made by lhotse, and over tar archives of lhotse and of NeMo."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.tools.corpora.layouts import manifest, rows_of, sound_of, story_of, tone, write_lines


@pytest.fixture
def cuts(tmp_path: Path) -> Any:
    """Clips that a manifest can name, by their ids, and others."""
    lhotse = pytest.importorskip("lhotse")
    long = lhotse.Recording.from_file(tone(tmp_path / "long.wav", 3.0, pitch=500))
    short = lhotse.Recording.from_file(tone(tmp_path / "short.flac", 1.0))

    def supervised(cut: Any, *times: tuple[float, float]) -> Any:
        cut.supervisions = [
            lhotse.SupervisionSegment(
                f"{cut.id}-{number}", cut.recording.id, start, seconds, text=f"text {cut.id} {number}", speaker="anna",
                language="en", custom={"german": "Hallo"},
            )
            for number, (start, seconds) in enumerate(times)
        ]  # fmt: skip
        return cut

    def cut(name: str, recording: Any, start: float, seconds: float, channel: int = 0) -> Any:
        return lhotse.MonoCut(name, start, seconds, channel, recording=recording)

    return lhotse.CutSet.from_cuts([
        supervised(cut("whole", short, 0, 1.0), (0, 1.0)),
        supervised(cut("part", long, 2.01, 0.5), (0, 0.5)),
        supervised(cut("talk", long, 0.1, 2.5), (0.0, 1.0), (0.2, 1.3)),
        cut("silent", short, 0, 1.0),
        supervised(cut("other rate", long.resample(8000), 1.5, 1.0), (0, 1.0)),
        supervised(cut("fast", short.perturb_speed(1.1), 0, 0.9), (0, 0.9)),
        supervised(cut("mixed", long, 0, 1.0), (0, 1.0)).pad(duration=2.0),
    ])  # fmt: skip


def lhotse_sound(cuts: Any, identity: str) -> np.ndarray:
    """What lhotse itself gives for a row."""
    for cut in cuts:
        if cut.id == identity:
            return np.asarray(cut.load_audio()[0])
        for one in cut.supervisions:
            if one.id == identity:
                return np.asarray(cut.truncate(offset=one.start, duration=one.duration).load_audio()[0])
    raise KeyError(identity)


def test_cuts_are_what_lhotse_hears(cuts: Any, tmp_path: Path) -> None:
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    command = ["table", f"train={tmp_path / 'cuts.jsonl.gz'}", "--format", "lhotse", "--tgt-lang", "de",
               "--columns", "tgt_text=german,src_text=text", "--output", tmp_path / "out"]  # fmt: skip
    manifest(*command).ok()
    rows = rows_of(tmp_path / "out/train.tsv")
    assert [row["id"] for row in rows] == ["whole", "part", "talk-0", "talk-1", "other rate"]
    assert {(row["tgt_text"], row["src_lang"], row["tgt_lang"], row["speaker"]) for row in rows} == {
        ("Hallo", "en", "de", "anna")
    }
    assert rows[1]["src_text"] == "text part 0" and rows[1]["audio"] == f"{tmp_path}/long.wav:32160:8000"
    # At its file's own rate: lhotse's lower one would lose what is there.
    assert rows.pop()["audio"] == f"{tmp_path}/long.wav:24000:16000"
    for row in rows:
        assert np.array_equal(sound_of(tmp_path / "out", row), lhotse_sound(cuts, row["id"])), row["id"]
    story = story_of(tmp_path / "out", "train", lines=8)
    (count,) = story["rows"].values()
    assert count["dropped"] == {
        "cut whose sound lhotse computes (a mix, a change of speed, a command)": 2, "cut without a supervision": 1,
    }
    (tmp_path / "cuts.jsonl.gz").unlink()
    write_lines(tmp_path / "cuts.jsonl", ['{"id": "x", "type": "MonoCut", "start": 0}'])
    line = manifest("table", tmp_path / "cuts.jsonl", *command[2:]).user_error()
    assert "cuts.jsonl, after cut 0: lhotse cannot read it (" in line


def test_shar_stays_in_its_archives(cuts: Any, tmp_path: Path) -> None:
    """What lhotse had to compute for a cut is computed there."""
    cuts = cuts.filter(lambda cut: type(cut).__name__ == "MonoCut" and cut.supervisions)
    cuts = cuts.filter(lambda cut: cut.id != "other rate").to_eager()
    (tmp_path / "shar").mkdir()
    cuts.to_shar(tmp_path / "shar", fields={"recording": "flac"}, shard_size=2)
    assert len(list((tmp_path / "shar").glob("*.tar"))) == 2
    manifest("table", f"train={tmp_path / 'shar'}", "--format", "lhotse-shar", "--output", tmp_path / "out").ok()
    rows = rows_of(tmp_path / "out/train.tsv")
    assert [row["id"] for row in rows] == ["whole", "part", "talk-0", "talk-1", "fast"]
    for row in rows:
        # Segments alone are taken out: bytes of FLAC cannot name them.
        assert ("recording.00000" in row["audio"]) == (not row["id"].startswith("talk"))
        samples, expected = sound_of(tmp_path / "out", row), lhotse_sound(cuts, row["id"])
        assert len(samples) == len(expected) and np.abs(samples - expected).max() < 1e-4, row["id"]
    manifest("validate", tmp_path / "out/train.tsv").ok()
    (tmp_path / "shar/recording.000001.tar").unlink()
    line = manifest("table", tmp_path / "shar", "--format", "lhotse-shar", "--output", tmp_path / "x").user_error()
    assert line.endswith("recording.000001.tar: found no such file, expected the sound of cuts.000001.jsonl.gz")


@pytest.fixture
def channels(tmp_path: Path) -> Any:
    """Cuts of a telephone call, whole and by speaker, and of an array of microphones with a file each."""
    lhotse = pytest.importorskip("lhotse")
    rng = np.random.default_rng(0)
    for name, count in (("call.wav", 2), *((f"mic{number}.wav", 1) for number in range(3))):
        soundfile.write(tmp_path / name, rng.normal(0, 0.1, (32000, count)).astype(np.float32), 16000, "FLOAT")

    def recording(name: str, *files: tuple[str, list[int]]) -> Any:
        sources = [lhotse.AudioSource("file", numbers, str(tmp_path / file)) for file, numbers in files]
        return lhotse.Recording(name, sources, 16000, 32000, 2.0)

    def said(name: str, recording: str, start: float, channel: int | list[int]) -> Any:
        return lhotse.SupervisionSegment(name, recording, start, 0.5, channel=channel, text=name, language="en")

    # Channels of a file need not be numbered from 0, nor be in order.
    recordings = [
        recording("call", ("call.wav", [0, 1])), recording("swapped", ("call.wav", [5, 4])),
        recording("array", *((f"mic{number}.wav", [number]) for number in range(3))),
    ]  # fmt: skip
    segments = [
        said("call-a", "call", 0.0, 0), said("call-b", "call", 0.25, 1), said("call-both", "call", 1.0, [0, 1]),
        said("swapped-a", "swapped", 0.0, 4), said("swapped-b", "swapped", 0.5, 5),
        said("array-2", "array", 1.0, 2), said("array-all", "array", 0.5, [0, 1, 2]),
    ]  # fmt: skip
    talks = lhotse.CutSet.from_manifests(
        recordings=lhotse.RecordingSet.from_recordings(recordings),
        supervisions=lhotse.SupervisionSet.from_segments(segments),
    )
    cut = talks.trim_to_supervisions(keep_overlapping=False).map(lambda cut: cut.with_id(f"cut-{cut.id}"))
    return lhotse.CutSet.from_cuts([*talks, *cut])


def of_channels(cuts: Any, identity: str) -> np.ndarray:
    """What lhotse gives for a row of a talk, or of a cut of one supervision: the mean of its channels."""
    (cut,) = (cut for cut in cuts if cut.id == f"cut-{identity.removeprefix('cut-')}")
    return np.asarray(cut.load_audio().mean(0))


@pytest.mark.parametrize("audio", ["keep", "flac"])
def test_a_row_hears_the_channels_of_its_supervision(channels: Any, tmp_path: Path, audio: str) -> None:
    """As in Switchboard and Fisher (a speaker a channel) and AMI (a file a microphone)."""
    channels.to_file(tmp_path / "cuts.jsonl.gz")
    manifest("table", f"train={tmp_path / 'cuts.jsonl.gz'}", "--format", "lhotse", "--audio", audio,
             "--output", tmp_path / "out").ok()  # fmt: skip
    rows = rows_of(tmp_path / "out/train.tsv")
    names = ["call-a", "call-b", "call-both", "swapped-a", "swapped-b", "array-2"]
    assert [row["id"] for row in rows] == [*names, *(f"cut-{name}" for name in names)]
    expected = ["1", "2", "", "2", "1", ""] if audio == "keep" else [""] * 6
    assert [row["channel"] for row in rows] == 2 * expected
    for row in rows:
        found, heard = sound_of(tmp_path / "out", row), of_channels(channels, row["id"])
        assert len(found) == len(heard) and np.abs(found - heard).max() < 1e-4, row["id"]
    (count,) = story_of(tmp_path / "out", "train", lines=14)["rows"].values()
    assert count["dropped"] == {"cut of several channels that are not all of one file": 2}
    manifest("validate", tmp_path / "out/train.tsv").ok()


def test_channels_in_shar(channels: Any, tmp_path: Path) -> None:
    (tmp_path / "shar").mkdir()
    # lhotse writes channels in their file's order there, and reads them in that of their numbers.
    channels = channels.filter(lambda cut: cut.recording.id != "swapped").to_eager()
    channels.to_shar(tmp_path / "shar", fields={"recording": "flac"}, shard_size=20)
    manifest("table", f"train={tmp_path / 'shar'}", "--format", "lhotse-shar", "--output", tmp_path / "out").ok()
    rows = rows_of(tmp_path / "out/train.tsv")
    # The array's cuts have one file there.
    names = ["call-a", "call-b", "call-both", "array-2", "array-all"]
    assert [row["id"] for row in rows] == [*names, *(f"cut-{name}" for name in names)]
    assert [row["channel"] for row in rows] == [""] * 10
    for row in rows:
        found, heard = sound_of(tmp_path / "out", row), of_channels(channels, row["id"])
        assert len(found) == len(heard) and np.abs(found - heard).max() < 1e-4, row["id"]


def test_nemo_in_tar_archives(tmp_path: Path) -> None:
    """As NeMo's convert_to_tarred_audio_dataset.py writes it: paths with underscores in the place of slashes, and a
    file that has several segments once, under further names in the manifest."""
    rows = []
    for shard in range(2):
        with tarfile.open(tmp_path / f"audio_{shard}.tar", "w") as tar:
            for number in range(2):
                clip = tone(tmp_path / "clip.wav", 1.0 + number, pitch=300 + 200 * shard)
                tar.add(clip, f"data_{shard}_{number}.wav")
                rows.append({"audio_filepath": f"data_{shard}_{number}.wav", "duration": 1.0 + number, "text": "one",
                             "shard_id": shard, "lang": "en"})  # fmt: skip
    rows += [
        {"audio_filepath": "data_1_1-sub1.wav", "offset": 1.5, "duration": 0.25, "text": "a part", "shard_id": 1},
        {"audio_filepath": "data_1_1-sub2.wav", "offset": 0, "duration": 2.0, "text": "all", "shard_id": 1},
        {"audio_filepath": "gone.wav", "duration": 2.0, "text": "x", "shard_id": 1},
        {"audio_filepath": "data_0_0.wav", "duration": 2.0, "text": "x", "shard_id": 7},
        {"audio_filepath": "data_0_0.wav", "duration": 2.0, "text": "x"},
    ]
    write_lines(tmp_path / "tarred_audio_manifest.json", [json.dumps(row) for row in rows])
    command = ["table", f"train={tmp_path / 'tarred_audio_manifest.json'}", "--format", "nemo-tarred", "--output"]
    manifest(*command, tmp_path / "out").ok()
    found = rows_of(tmp_path / "out/train.tsv")
    assert [(row["id"], row["duration"]) for row in found] == [
        ("data_0_0", "1"), ("data_0_1", "2"), ("data_1_0", "1"), ("data_1_1", "2"), ("data_1_1-sub1", "0.25"),
        ("data_1_1-sub2", "2"),
    ]  # fmt: skip
    assert [f"{tmp_path}/audio_" in row["audio"] for row in found] == [True] * 4 + [False, True]
    sounds = [sound_of(tmp_path / "out", row) for row in found]
    assert np.array_equal(sounds[3], sounds[5])
    assert np.abs(sounds[4] - sounds[3][24000:28000]).max() < 1e-4
    story = story_of(tmp_path / "out", "train", lines=9)
    assert story["rows"]["transcribe en"]["dropped"] == {
        "row whose sound is not in its archive": 1, "no such audio file": 1, "row without a shard_id": 1,
    }  # fmt: skip
    with tarfile.open(tmp_path / "audio_0.tar", "w:gz") as tar:
        tar.add(tmp_path / "clip.wav", "data_0_0.wav")
    line = manifest(*command, tmp_path / "x").user_error()
    assert "audio_0.tar: cannot be read (" in line and "expected a tar archive that is not compressed" in line
