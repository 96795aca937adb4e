"""mp3 of varying bit rate, whole and in segments, with and without the tag that tells its length."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechllm_plugin.datasets.audio import SAMPLE_RATE, duration, resolve
from tests.plugin.sounds import Samples, error_of, noise, read, shift_of, sweep


def bursts(rate: int, seconds: float) -> Samples:
    """Noise between silences: an encoder of varying bit rate puts much of a loud frame into the frames before it."""
    times = np.arange(round(rate * seconds)) / rate
    return (noise(rate, seconds) * (np.sin(np.pi * times) > 0)).astype(np.float32)


def encoded(sound: Samples, rate: int, mode: str = "VARIABLE", level: float = 0.5) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="MP3", bitrate_mode=mode, compression_level=level)
    return file.getvalue()


def test_a_whole_file_is_that_of_one_read(tmp_path: Path) -> None:
    (tmp_path / "x.mp3").write_bytes(encoded(bursts(16000, 40), 16000))
    expected, _ = soundfile.read(tmp_path / "x.mp3", dtype="float32")
    # The decoder's last bit differs by where its memory lies.
    np.testing.assert_allclose(read(tmp_path, "x.mp3"), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rate", "level"), [(16000, 0.5), (16000, 0.99), (44100, 0.9), (8000, 0.9), (48000, 0.1)])
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_a_segment_is_that_part_of_the_whole(
    tmp_path: Path, rate: int, level: float, mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.mp3").write_bytes(encoded(bursts(rate, 8), rate, mode, level))
    whole, _ = soundfile.read(tmp_path / "x.mp3", dtype="float32")
    soundfile.write(tmp_path / "whole.wav", whole, rate, subtype="FLOAT")
    length = rate // 4
    starts = [0, 1, len(whole) - length, *np.random.default_rng(0).integers(2, len(whole) - length, 10)]
    for start in starts:
        found, expected = (read(tmp_path, f"{name}:{start}:{length}") for name in ("x.mp3", "whole.wav"))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    # Frames that lean on bytes of frames before the first one are silent, and mpg123 has nothing to complain of.
    assert capfd.readouterr().err == ""
    assert f"expected at least {len(whole) + 1} for" in error_of(tmp_path, f"x.mp3:{len(whole) - length + 1}:{length}")


def test_without_its_tag_all_is_read(tmp_path: Path) -> None:
    sound = bursts(16000, 20)
    data = encoded(sound, 16000)
    (tmp_path / "x.mp3").write_bytes(data)
    whole = read(tmp_path, "x.mp3")
    # The frame with the tag is the first; the next one begins at the next header.
    (tmp_path / "bare.mp3").write_bytes(data[data.find(data[:2], 100) :])
    bare = read(tmp_path, "bare.mp3")
    assert duration(resolve("bare.mp3", tmp_path)) * SAMPLE_RATE == len(bare)
    shift, likeness = shift_of(bare, whole)
    # What the tag would have told to leave out is still there.
    assert likeness > 0.999 and 0 < shift < 1300 and len(bare) >= len(whole) + shift
    np.testing.assert_allclose(read(tmp_path, f"bare.mp3:{50000 + shift}:8000"), whole[50000:58000], atol=1e-5)


@pytest.mark.parametrize(
    "front", [bytes(3000), b"\xff\xfb\x90" * 7, noise(16000).tobytes()], ids=["zeros", "like a header", "noise"]
)
def test_bytes_in_front_of_the_first_frame(tmp_path: Path, front: bytes) -> None:
    data = encoded(bursts(16000, 4), 16000)
    (tmp_path / "x.mp3").write_bytes(data)
    (tmp_path / "y.mp3").write_bytes(front + data)
    np.testing.assert_allclose(read(tmp_path, "y.mp3"), read(tmp_path, "x.mp3"), rtol=0, atol=1e-6)


def test_a_tag_in_front_is_not_taken_for_frames(tmp_path: Path) -> None:
    other, data = encoded(bursts(44100, 2), 44100), encoded(bursts(16000, 2), 16000)
    # A tag that holds, say, a jingle. Its size has seven bits a byte.
    tag = b"ID3\x04\x00\x00" + bytes((len(other) >> shift) & 127 for shift in (21, 14, 7, 0)) + other
    (tmp_path / "x.mp3").write_bytes(data)
    (tmp_path / "y.mp3").write_bytes(tag + data)
    np.testing.assert_allclose(read(tmp_path, "y.mp3"), read(tmp_path, "x.mp3"), rtol=0, atol=1e-6)


def test_a_piece_out_of_the_middle(tmp_path: Path) -> None:
    data = encoded(sweep(16000, 8) + noise(16000, 8) / 10, 16000, "CONSTANT")
    (tmp_path / "x.mp3").write_bytes(data)
    (tmp_path / "y.mp3").write_bytes(data[len(data) // 4 + 11 :])
    whole, piece = read(tmp_path, "x.mp3"), read(tmp_path, "y.mp3")
    assert 5.9 < len(piece) / SAMPLE_RATE < 6.2
    shift, _ = shift_of(whole, piece)
    # The first frame that does not lean on bytes that are not there begins it; the filters remember the two before.
    np.testing.assert_allclose(piece[1152 : len(whole) - shift], whole[shift + 1152 :], atol=1e-5)
    assert np.abs(piece[:576]).max() > 0.01


def test_mp3_in_a_wav(tmp_path: Path) -> None:
    """Without the tag that tells its length, which then is a guess of libsndfile's."""
    data = encoded(bursts(16000, 10), 16000)
    data = data[data.find(data[:2], 100) :]
    head = b"RIFF" + (1000).to_bytes(4, "little") + b"WAVEfmt " + (30).to_bytes(4, "little") + b"\x55\0\1\0"
    head += bytes(26) + b"data" + len(data).to_bytes(4, "little")
    (tmp_path / "x.mp3").write_bytes(data)
    (tmp_path / "x.wav").write_bytes(head + data)
    for place in ("", ":20000:5000"):
        found, expected = read(tmp_path, f"x.wav{place}"), read(tmp_path, f"x.mp3{place}")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_frames_of_a_file_are_walked_over_once(tmp_path: Path) -> None:
    """Of a talk that is cut into segments: each after the first costs no more with a longer talk."""
    data = encoded(bursts(16000, 10), 16000)
    (tmp_path / "x.mp3").write_bytes(data + data[data.find(data[:2], 100) :] * 60)
    times = []
    for number in range(6):
        begin = time.perf_counter()
        read(tmp_path, f"x.mp3:{1_000_000 * number}:1600")
        times.append(time.perf_counter() - begin)
    assert min(times[1:]) < times[0] / 3
