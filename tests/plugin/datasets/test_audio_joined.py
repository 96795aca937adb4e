"""Several recordings in one file, and Ogg files that lack their end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechllm_plugin.datasets.audio import SAMPLE_RATE, duration, resolve
from speechllm_plugin.datasets.sound.notes import forget
from tests.plugin.sounds import error_of, noise, read, shift_of, sweep


def write(path: Path, format: str, subtype: str, seconds: float, seed: int, rate: int = SAMPLE_RATE) -> bytes:
    """In small pieces, as recorders do: libsndfile then makes many pages of an Ogg file."""
    with soundfile.SoundFile(path, "w", rate, 1, format=format, subtype=subtype) as file:
        sound = noise(rate, seconds, seed)
        for start in range(0, len(sound), 1000):
            file.write(sound[start : start + 1000])
    return path.read_bytes()


@pytest.mark.parametrize(("format", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")])
def test_recordings_put_together_are_all_read(tmp_path: Path, format: str, subtype: str) -> None:
    lengths = (2.0, 0.5, 2.5)
    parts = [write(tmp_path / f"{i}", format, subtype, lengths[i], i) for i in range(3)]
    (tmp_path / "all").write_bytes(b"".join(parts))
    # At 16 kHz nothing is resampled, so that the parts do not reach into each other.
    expected = np.concatenate([read(tmp_path, str(i)) for i in range(3)])
    found = read(tmp_path, "all")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert duration(resolve("all", tmp_path)) == 5
    # Within a part, over an end, over a whole part, at the very end.
    for start, length in ((33000, 4000), (31000, 3000), (20000, 30000), (79000, 1000)):
        np.testing.assert_allclose(read(tmp_path, f"all:{start}:{length}"), found[start : start + length], atol=1e-6)


@pytest.mark.parametrize(("seconds", "count"), [(4.0, 2), (0.01, 7)])
def test_recordings_as_long_as_one_another(tmp_path: Path, seconds: float, count: int) -> None:
    """The last frame ends where the first header says."""
    part = write(tmp_path / "one", "FLAC", "PCM_16", seconds, 0)
    (tmp_path / "all").write_bytes(part * count)
    np.testing.assert_array_equal(read(tmp_path, "all"), np.tile(read(tmp_path, "one"), count))
    assert duration(resolve("all", tmp_path)) == pytest.approx(seconds * count)


def test_recordings_as_long_as_one_another_and_mostly_silent(tmp_path: Path) -> None:
    """What hints at the second one is only seen when the first was decoded."""
    sound = np.concatenate([noise(SAMPLE_RATE, 3), np.zeros(7 * SAMPLE_RATE, dtype=np.float32)])
    soundfile.write(tmp_path / "one", sound, SAMPLE_RATE, format="FLAC")
    (tmp_path / "all").write_bytes((tmp_path / "one").read_bytes() * 2)
    np.testing.assert_array_equal(read(tmp_path, "all"), np.tile(read(tmp_path, "one"), 2))


def test_a_short_recording_behind_a_long_one(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{seconds}", "FLAC", "PCM_16", seconds, 0) for seconds in (1.0, 0.5)]
    (tmp_path / "all").write_bytes(b"".join(parts))
    assert duration(resolve("all", tmp_path)) == 1.5


def test_what_follows_a_recording_is_whole_too(tmp_path: Path) -> None:
    one = write(tmp_path / "one", "FLAC", "PCM_16", 1, 0)
    (tmp_path / "all").write_bytes(one + one[: len(one) // 2])
    assert "expected" in error_of(tmp_path, "all")


@pytest.mark.parametrize(
    ("format", "likeness"), [("WAV", 0.9999), ("FLAC", 0.9999), ("OGG", 0.99), ("MP3", 0.99), ("AIFF", 0.9999)]
)
def test_recordings_of_other_rates_and_channels_are_brought_together(
    tmp_path: Path, format: str, likeness: float, caplog: pytest.LogCaptureFixture
) -> None:
    forget()
    for name, rate, channels, first in (("a", SAMPLE_RATE, 1, 200), ("b", SAMPLE_RATE, 2, 700), ("c", 44100, 2, 1200)):
        sound = np.stack([sweep(rate, 2, first)] * channels, axis=1)
        # Frames of one size, whatever is in them.
        options: Any = {"bitrate_mode": "CONSTANT", "compression_level": 0.5} if format == "MP3" else {}
        soundfile.write(tmp_path / name, sound, rate, format=format, **options)
    content = b"".join((tmp_path / name).read_bytes() for name in "abc")
    (tmp_path / "all").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path, "all")
    assert caplog.messages[0] == (
        "all: holds 3 recordings, of 1 channel(s) at 16000 Hz and 2 at 16000 Hz; those unlike the first were brought "
        "to its rate and channels"
    )
    # An mp3 ends with the rest of its last frame, and the one behind it begins with its encoder's delay.
    assert len(found) == pytest.approx(6 * SAMPLE_RATE, abs=6000 if format == "MP3" else 2)
    for number, first in enumerate((200, 700, 1200)):
        part = found[2 * number * SAMPLE_RATE :][: 2 * SAMPLE_RATE]
        expected = sweep(SAMPLE_RATE, 2, first)
        if format == "MP3":
            assert shift_of(found, expected)[0] == pytest.approx(2 * number * SAMPLE_RATE, abs=5000)
        else:
            place, alike = shift_of(part, expected)
            assert place == 0 and alike > likeness
    np.testing.assert_allclose(read(tmp_path, "all:40000:30000"), found[40000:70000], atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 24000, 48000])
def test_segments_of_vorbis_are_in_place_to_the_last_page(tmp_path: Path, rate: int) -> None:
    write(tmp_path / "x", "OGG", "VORBIS", 3, 0, rate)
    whole, _ = soundfile.read(tmp_path / "x", dtype="float32")
    soundfile.write(tmp_path / "whole.wav", whole, rate, subtype="FLOAT")
    for back in (2.0, 1.0, 0.5, 0.25, 0.1):
        place = f"{len(whole) - int(back * rate)}:{rate // 10}"
        np.testing.assert_allclose(read(tmp_path, f"x:{place}"), read(tmp_path, f"whole.wav:{place}"), atol=1e-5)


def test_an_ogg_without_its_end_mark_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    forget()
    data = write(tmp_path / "x", "OGG", "OPUS", 3, 0)
    with caplog.at_level(logging.WARNING):
        read(tmp_path, "x")
        assert not caplog.records
        (tmp_path / "x").write_bytes(data[: data.rfind(b"OggS")])
        found = len(read(tmp_path, "x")) / SAMPLE_RATE
    assert 1 < found < 3
    assert "x: the Ogg stream has no mark of its end, so it may have been cut off" in caplog.text


def test_what_stands_between_two_pages_is_said(tmp_path: Path) -> None:
    data = write(tmp_path / "x", "OGG", "VORBIS", 3, 0)
    place = data.find(b"OggS", len(data) // 2)
    (tmp_path / "x").write_bytes(data[:place] + bytes(100) + data[place:])
    assert error_of(tmp_path, "x").startswith(f"found bytes that are no Ogg page at byte {place} (to {place + 100})")
