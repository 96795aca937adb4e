"""Recordings in parts, as browsers give them, and files that `cat` put together."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechllm_plugin.datasets.audio import SAMPLE_RATE, duration, resolve
from speechllm_plugin.datasets.sound.notes import forget
from tests.plugin.datasets.test_audio_ffmpeg import SECONDS, write
from tests.plugin.sounds import error_of, noise, read, shift_of, sweep

CLUSTER = b"\x1f\x43\xb6\x75"
LIVE = {"live": "1", "cluster_time_limit": "500"}


def webm(folder: Path) -> bytes:
    """As a browser's recorder writes it: no length, a cluster each half a second."""
    write(folder / "whole.webm", "libopus", "webm", 48000, options=LIVE)
    return (folder / "whole.webm").read_bytes()


def places(data: bytes, needle: bytes) -> list[int]:
    return [place for place in range(len(data)) if data.startswith(needle, place)]


def test_the_first_part_of_a_recording_is_read_to_its_end(tmp_path: Path) -> None:
    data = webm(tmp_path)
    whole = read(tmp_path, "whole.webm")
    third = places(data, CLUSTER)[2]
    # At a cluster, and wherever the time was up.
    for stop in (third, third + 2, third + 300):
        (tmp_path / "first").write_bytes(data[:stop])
        first = read(tmp_path, "first")
        assert 0.9 < len(first) / SAMPLE_RATE < 1.3
        np.testing.assert_allclose(first[:14000], whole[:14000], atol=1e-5)


@pytest.mark.parametrize("inside", [0, 4, 17, 100])
def test_a_part_without_the_header_is_called_what_it_is(tmp_path: Path, inside: int) -> None:
    data = webm(tmp_path)
    start = places(data, CLUSTER)[2] + inside
    (tmp_path / "later").write_bytes(data[start:])
    assert error_of(tmp_path, "later") == (
        "found a later part of a WebM recording, without its header, expected all parts; "
        "`cat FIRST NEXT ... > OUT.webm` joins them"
    )


def test_later_parts_of_other_streams_are_called_what_they_are(tmp_path: Path) -> None:
    write(tmp_path / "x.ogg", "libopus", "ogg", 48000, options={"page_duration": "200000"})
    data = (tmp_path / "x.ogg").read_bytes()
    (tmp_path / "later").write_bytes(data[places(data, b"OggS")[3] :])
    assert error_of(tmp_path, "later").startswith("found a later part of an Ogg stream, without its")
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
    write(tmp_path / "x.mp4", "aac", "mp4", 48000, options=fragments)
    data = (tmp_path / "x.mp4").read_bytes()
    (tmp_path / "later").write_bytes(data[places(data, b"moof")[1] - 4 :])
    assert error_of(tmp_path, "later").startswith("found a later part of an MPEG-4 stream, without")


def test_a_part_that_is_missing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    forget()
    data = webm(tmp_path)
    second, third = places(data, CLUSTER)[2:4]
    with caplog.at_level(logging.WARNING):
        read(tmp_path, "whole.webm")
        assert not caplog.records
        (tmp_path / "gap").write_bytes(data[:second] + data[third:])
        assert len(read(tmp_path, "gap")) / SAMPLE_RATE == pytest.approx(SECONDS - 0.5, abs=0.05)
    assert "gap: the times of its packets pass over 0." in caplog.text


@pytest.mark.parametrize(
    ("codec", "container", "rate", "extra"),
    [
        ("libopus", "webm", 48000, {}),
        ("libopus", "webm", 48000, {"options": LIVE}),  # a recorder's, started twice
        ("aac", "ipod", 16000, {}),
        ("aac", "mp4", 16000, {"options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("libopencore_amrnb", "amr", 8000, {"bit_rate": 12200}),
        ("aac", "adts", 16000, {}),
    ],
)
def test_recordings_one_behind_the_other(
    tmp_path: Path, codec: str, container: str, rate: int, extra: dict[str, dict[str, str]]
) -> None:
    write(tmp_path / "one", codec, container, rate, **extra)
    content = (tmp_path / "one").read_bytes()
    (tmp_path / "two").write_bytes(content + content)
    one, two = read(tmp_path, "one"), read(tmp_path, "two")
    assert len(two) / len(one) == pytest.approx(2, abs=0.01)
    assert duration(resolve("two", tmp_path)) == pytest.approx(2 * len(one) / SAMPLE_RATE, abs=0.05)
    shift, likeness = shift_of(two[len(one) - 800 :], sweep(SAMPLE_RATE, SECONDS))
    assert likeness > 0.9 and abs(shift - 800) < 1200
    # Over the seam, and behind it.
    for start, length in (((len(one) - 4000) * rate // SAMPLE_RATE, rate // 2), (4 * rate, rate // 2)):
        part, place = read(tmp_path, f"two:{start}:{length}"), start * SAMPLE_RATE // rate
        np.testing.assert_allclose(part[200:-200], two[place + 200 : place + len(part) - 200], atol=1e-4)


@pytest.mark.parametrize(
    ("format", "subtype", "length"),
    [
        ("WAV", "PCM_16", 16001),
        ("WAV", "PCM_U8", 16001),  # an odd number of bytes
        ("WAV", "FLOAT", 16001),
        ("RF64", "PCM_16", 16001),
        ("W64", "PCM_U8", 16001),
        ("AIFF", "PCM_16", 16001),
        ("AU", "PCM_16", 16001),
        ("CAF", "PCM_16", 16001),
        ("NIST", "PCM_16", 16001),
    ],
)
def test_containers_of_samples_one_behind_the_other(tmp_path: Path, format: str, subtype: str, length: int) -> None:
    """The second was passed over in silence: to a reader it is a chunk behind the samples."""
    sounds = [noise(16000, 2, seed)[: length + seed] for seed in range(2)]
    for number, sound in enumerate(sounds):
        soundfile.write(tmp_path / str(number), sound, 16000, format=format, subtype=subtype)
    (tmp_path / "all").write_bytes((tmp_path / "0").read_bytes() + (tmp_path / "1").read_bytes())
    found = read(tmp_path, "all")
    np.testing.assert_allclose(found, np.concatenate(sounds), atol=1e-2)
    assert duration(resolve("all", tmp_path)) == len(found) / SAMPLE_RATE
    np.testing.assert_array_equal(read(tmp_path, "all:15000:2000"), found[15000:17000])


def test_a_file_cut_short_in_front_of_another_is_said(tmp_path: Path) -> None:
    write(tmp_path / "x.m4a", "aac", "ipod", 16000)
    content = (tmp_path / "x.m4a").read_bytes()
    (tmp_path / "x.m4a").write_bytes(content + content[: len(content) // 2])
    assert error_of(tmp_path, "x.m4a").startswith("found MPEG-4 (m4a, mp4, 3gp, mov) without its index (box `moov`)")


def test_a_stream_that_changes_its_rate_goes_on_as_it_began(tmp_path: Path) -> None:
    write(tmp_path / "one.aac", "aac", "adts", 16000)
    write(tmp_path / "two.aac", "aac", "adts", 44100)
    (tmp_path / "x.aac").write_bytes((tmp_path / "one.aac").read_bytes() + (tmp_path / "two.aac").read_bytes())
    found = read(tmp_path, "x.aac")
    assert len(found) / SAMPLE_RATE == pytest.approx(2 * SECONDS, abs=0.2)
    assert shift_of(found[SECONDS * SAMPLE_RATE :], sweep(SAMPLE_RATE, SECONDS))[1] > 0.95


@pytest.mark.parametrize(
    "tag",
    [
        b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128),
        b"TAG" + bytes(125),
        b"APETAGEX\xd0\x07\x00\x00" + (64).to_bytes(4, "little") + bytes(16) + b"\xff\xfb\x90\x00" * 16,
    ],
    ids=["ID3v2", "ID3v1", "APE"],
)
def test_mp3_files_with_tags_one_behind_the_other(tmp_path: Path, tag: bytes) -> None:
    """Players and ffmpeg read it; a tag in front of the second file was taken for damage."""
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.mp3", noise(16000, 3, number), 16000)
    parts = [(tmp_path / f"{number}.mp3").read_bytes() for number in range(2)]
    (tmp_path / "x.mp3").write_bytes(parts[0] + tag + parts[1])
    (tmp_path / "plain.mp3").write_bytes(parts[0] + parts[1])
    found = read(tmp_path, "x.mp3")
    np.testing.assert_allclose(found, read(tmp_path, "plain.mp3"), rtol=0, atol=1e-4)
    for start in (40000, 47000, 60000):
        np.testing.assert_allclose(read(tmp_path, f"x.mp3:{start}:8000"), found[start : start + 8000], atol=1e-5)


@pytest.mark.parametrize(
    ("codec", "container", "extra", "twice"),
    [
        ("alac", "matroska", {}, True),  # packets that do not say how long they play
        ("tta", "matroska", {}, True),  # or as long as all others, where the last one is short
        ("wavpack", "matroska", {}, True),
        ("pcm_s16le", "matroska", {}, True),
        ("aac", "matroska", {}, False),  # whole milliseconds, of 21.3
        ("tta", "tta", {}, True),
        ("wmav2", "asf", {"bit_rate": 64000}, False),
        ("aac", "flv", {}, False),
        ("flac", "ogg", {}, True),
        ("alac", "caf", {}, False),
        ("adpcm_yamaha", "wav", {}, False),
        ("mp2", "wav", {}, False),
        ("pcm_s16le", "voc", {}, False),  # libsndfile reads the headers of its blocks as samples
    ],
)
def test_lengths_of_all_that_ffmpeg_reads(
    tmp_path: Path, codec: str, container: str, extra: dict[str, int], twice: bool
) -> None:
    """Stated, read and cut out are one; and so are two files in one."""
    rate = 44100 if container in ("asf", "flv") else 48000 if codec == "aac" else 16000
    write(tmp_path / "one", codec, container, rate, **extra)  # type: ignore[arg-type]
    content = (tmp_path / "one").read_bytes()
    (tmp_path / "two").write_bytes(content * 2)
    # FFmpeg 8 shortens the last packet of a caf twice.
    tolerance = 0.08 if container == "caf" else 0.05
    for name, number in (("one", 1), ("two", 2)):
        found = read(tmp_path, name)
        seconds = number * SECONDS
        assert len(found) / SAMPLE_RATE == pytest.approx(seconds, abs=0.13 * number)
        assert duration(resolve(name, tmp_path)) == pytest.approx(len(found) / SAMPLE_RATE, abs=tolerance * number)
        if twice or name == "one":
            sound = np.tile(sweep(SAMPLE_RATE, SECONDS), number)
            assert shift_of(found, sound)[1] > 0.94
