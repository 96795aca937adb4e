"""What libsndfile does not know: as telephones, browsers and video tools write it, read by FFmpeg."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from speechllm_plugin.datasets.audio import SAMPLE_RATE, duration, resolve
from speechllm_plugin.datasets.sound.musepack import stated_length
from speechllm_plugin.files.byte_range import ByteRange
from tests.commands import environment
from tests.plugin.sounds import error_of, read, shift_of, sweep
from tests.waiting import LONGEST

SECONDS = 3


def write(
    path: Path,
    codec: str,
    container: str,
    rate: int,
    *,
    bit_rate: int | None = None,
    options: dict[str, str] | None = None,
    seconds: int = SECONDS,
) -> None:
    with av.open(str(path), "w", format=container, options=options or {}) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout="mono")
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(sweep(rate, seconds)[None], format="fltp", layout="mono")
        frame.rate, frame.pts = rate, 0
        encoder = stream.codec_context
        cutter = av.AudioResampler(encoder.format, "mono", rate, frame_size=encoder.frame_size or 1024)
        for piece in [*cutter.resample(frame), *cutter.resample(None), None]:
            for packet in stream.encode(piece):
                file.mux(packet)


@pytest.mark.parametrize(
    ("codec", "container", "rate", "options", "shift", "likeness"),
    [
        ("aac", "ipod", 16000, {}, 0, 0.999),  # m4a: voice memos
        ("aac", "mp4", 44100, {}, 0, 0.99),  # a video's sound
        ("aac", "mp4", 48000, {"options": {"movflags": "frag_keyframe+empty_moov"}}, 1024 / 3, 0.98),  # a stream
        ("libopus", "webm", 48000, {}, 0, 0.999),
        ("libopus", "webm", 48000, {"options": {"live": "1"}}, 0, 0.999),  # a browser's recorder: no length
        ("aac", "adts", 16000, {}, 1024, 0.999),  # .aac has no place for the encoder's delay
        ("libopencore_amrnb", "amr", 8000, {"bit_rate": 12200}, 80, 0.9),
        ("libopencore_amrnb", "3gp", 8000, {"bit_rate": 12200}, 0, 0.9),
        ("wmav2", "asf", 44100, {"bit_rate": 64000}, -743, 0.98),
        ("flac", "ogg", 16000, {}, 0, 0.9999),  # VoxPopuli
        ("alac", "ipod", 16000, {}, 0, 0.9999),
        ("pcm_s16le", "mov", 16000, {}, 0, 0.9999),
        ("flac", "matroska", 16000, {}, 0, 0.9999),
        ("aac", "mpegts", 48000, {}, 341, 0.98),
        ("flac", "nut", 16000, {}, 0, 0.9999),  # ends with a packet that holds nothing
        ("mp2", "mp2", 44100, {}, 174, 0.98),  # libsndfile reads it, and guesses its length
    ],
)
def test_the_sound_that_went_in(
    tmp_path: Path, codec: str, container: str, rate: int, options: dict[str, Any], shift: float, likeness: float
) -> None:
    write(tmp_path / "x", codec, container, rate, **options)
    found = read(tmp_path, "x")
    assert len(found) / SAMPLE_RATE == pytest.approx(SECONDS, abs=0.08)
    assert duration(resolve("x", tmp_path)) == pytest.approx(len(found) / SAMPLE_RATE, abs=0.03)
    place, alike = shift_of(found, sweep(SAMPLE_RATE, SECONDS))
    assert place == pytest.approx(shift, abs=25) and alike > likeness
    part = read(tmp_path, f"x:{rate}:{rate // 2}")
    # Without the ends, where the resampler has another neighbourhood.
    np.testing.assert_allclose(part[200:-200], found[16200:23800], atol=1e-5)


@pytest.mark.parametrize(
    ("codec", "container", "rate"),
    [("libopus", "webm", 48000), ("libopus", "mp4", 48000), ("flac", "matroska", 16000), ("alac", "ipod", 16000),
     ("aac", "ipod", 44100), ("libopencore_amrnb", "amr", 8000)],
)  # fmt: skip
def test_segments_of_a_long_file_are_those_of_the_whole(tmp_path: Path, codec: str, container: str, rate: int) -> None:
    """Of some codecs, what is far in front of a segment is not decoded."""
    write(tmp_path / "x", codec, container, rate, seconds=10, bit_rate=12200 if "amr" in codec else None)
    whole = read(tmp_path, "x")
    for second in (1, 4, 8):
        part = read(tmp_path, f"x:{second * rate}:{rate}")
        # Without the ends, where the resampler has another neighbourhood.
        np.testing.assert_allclose(part[200:-200], whole[16000 * second + 200 : 16000 * (second + 1) - 200], atol=1e-5)


def test_damage_far_in_front_of_a_segment(tmp_path: Path) -> None:
    write(tmp_path / "x", "libopus", "mp4", 48000, seconds=10)
    expected = read(tmp_path, "x:384000:48000")
    data = bytearray((tmp_path / "x").read_bytes())
    data[len(data) // 3 : len(data) // 3 + 3000] = b"\xff" * 3000
    (tmp_path / "x").write_bytes(data)
    assert "readable samples" in error_of(tmp_path, "x")
    np.testing.assert_array_equal(read(tmp_path, "x:384000:48000"), expected)


def test_a_page_of_flac_in_ogg_that_is_damaged(tmp_path: Path) -> None:
    """FFmpeg passes over it."""
    write(tmp_path / "x", "flac", "ogg", 16000)
    data = bytearray((tmp_path / "x").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    (tmp_path / "x").write_bytes(data)
    assert error_of(tmp_path, "x").endswith("where its header states 3.00 s, expected a whole file")


def test_an_edit_list_tells_the_length_to_the_sample(tmp_path: Path) -> None:
    """An encoder fills up the last packet: a clip of 30 s would not fit into a window of 30 s."""
    write(tmp_path / "x.m4a", "aac", "ipod", SAMPLE_RATE)
    assert len(read(tmp_path, "x.m4a")) == SECONDS * SAMPLE_RATE == duration(resolve("x.m4a", tmp_path)) * SAMPLE_RATE


@pytest.mark.parametrize(
    ("codec", "container", "options", "message"),
    [
        ("aac", "ipod", {}, "found MPEG-4 (m4a, mp4, 3gp, mov) without its index (box `moov`)"),
        ("aac", "ipod", {"movflags": "faststart"}, "where its header states 3.00 s, expected a whole file"),
        ("libopus", "webm", {}, "where its header states 3.01 s, expected a whole file"),
    ],
)
def test_a_file_cut_short_is_said(
    tmp_path: Path, codec: str, container: str, options: dict[str, str], message: str
) -> None:
    write(tmp_path / "x", codec, container, 48000, options=options)
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data[: len(data) * 6 // 10])
    assert message in error_of(tmp_path, "x")
    assert message in error_of(tmp_path, "x", duration)


def test_sound_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    write(tmp_path / "x.m4a", "aac", "ipod", 16000)
    data = (tmp_path / "x.m4a").read_bytes()
    place = data.find(b"mdat") + 4
    size = int.from_bytes(data[place - 8 : place - 4], "big") - 8
    (tmp_path / "x.m4a").write_bytes(data[:place] + b"\xff" * size + data[place + size :])
    message = error_of(tmp_path, "x.m4a")
    assert message.startswith("found MPEG-4 (m4a, mp4, 3gp, mov) with AAC (Advanced Audio Coding), of which FFmpeg")
    assert message.endswith("another version of FFmpeg may convert it: `ffmpeg -i IN OUT.wav`")


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ("4d50434b53480e120730bc088889 4c001b1b", 132300),  # as mpcenc writes it
        ("4d50434b53480f120730bc0888894c834c1b1b", 132300 - 460),  # silence in front
        ("4d502b0700000000", None),  # version 7
    ],
)
def test_the_length_in_the_header_of_musepack(tmp_path: Path, header: str, length: int | None) -> None:
    (tmp_path / "x.mpc").write_bytes(bytes.fromhex(header))
    with (tmp_path / "x.mpc").open("rb") as file:
        assert stated_length(ByteRange(file.fileno(), 0, 100)) == length


def test_a_hole_is_said(tmp_path: Path) -> None:
    write(tmp_path / "x.mp4", "aac", "mp4", 44100)
    data = bytearray((tmp_path / "x.mp4").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    (tmp_path / "x.mp4").write_bytes(data)
    message = error_of(tmp_path, "x.mp4")
    assert "readable samples (" in message and message.endswith(f"expected {SECONDS * 44100} samples")


def test_a_video_without_sound_is_said(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "x.mp4"), "w") as file:
        stream: Any = file.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        for packet in [*stream.encode(av.VideoFrame(32, 32, "yuv420p")), *stream.encode(None)]:
            file.mux(packet)
    assert error_of(tmp_path, "x.mp4") == "found MPEG-4 (m4a, mp4, 3gp, mov) without sound, expected an audio track"


def test_without_pyav_the_line_says_what_the_file_is_and_what_to_do(tmp_path: Path) -> None:
    """In an interpreter of its own, with a PyAV that cannot be imported in front of the real one."""
    write(tmp_path / "x.wav", "aac", "ipod", 16000)
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "av.py").write_text("raise ImportError('absent')\n")
    program = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "from speechllm_plugin.datasets.audio import read_audio, resolve\n"
        "read_audio(resolve('x.wav', pathlib.Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", program, tmp_path / "absent", tmp_path]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LONGEST)
    assert result.stderr.rstrip().endswith(
        "AudioError: x.wav: found MPEG-4 (m4a, mp4, 3gp, mov), expected wav, flac, mp3 or ogg; with PyAV "
        '(pip install av) it is read, or `ffmpeg -i IN OUT.wav` converts it'
    )
