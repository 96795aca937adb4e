"""Several recordings in one file, and Ogg files that lack their end."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechllm_plugin.datasets.audio import SAMPLE_RATE, duration, resolve
from speechllm_plugin.datasets.sound.notes import forget
from tests.plugin.sounds import error_of, noise, read


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


def test_recordings_as_long_as_one_another(tmp_path: Path) -> None:
    """The last frame ends where the first header says."""
    part = write(tmp_path / "one", "FLAC", "PCM_16", 2, 0)
    (tmp_path / "all").write_bytes(part + part)
    np.testing.assert_array_equal(read(tmp_path, "all"), np.tile(read(tmp_path, "one"), 2))


def test_recordings_that_do_not_go_together_are_said(tmp_path: Path) -> None:
    one = write(tmp_path / "one", "FLAC", "PCM_16", 1, 0)
    (tmp_path / "all").write_bytes(one + write(tmp_path / "two", "FLAC", "PCM_16", 1, 1, 8000))
    assert error_of(tmp_path, "all") == (
        "found 2 recordings in one file, of 1 channel(s) at 16000 Hz and 1 at 8000 Hz, expected them alike"
    )
    # The second was cut short: none of it is passed over.
    (tmp_path / "all").write_bytes(one + one[: len(one) // 2])
    assert "expected" in error_of(tmp_path, "all")


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
