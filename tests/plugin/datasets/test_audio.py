"""Audio files: every container comes out as 16 kHz mono, and everything unusable is said in one line."""

from __future__ import annotations

import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from speechllm_plugin.datasets.audio import (
    SAMPLE_RATE,
    AudioError,
    AudioSource,
    audio_key,
    duration,
    read_audio,
    resolve,
)
from speechllm_plugin.datasets.sound.mp3 import Mp3Frames, read_frames
from speechllm_plugin.datasets.sound.notes import forget
from speechllm_plugin.files.byte_range import ByteRange
from tests.plugin.sounds import error_of, noise, read

HERTZ = 440.0


def sine(rate: int, seconds: float = 1.0) -> npt.NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * HERTZ * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def cut(path: Path, fraction: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])


def loudest_hertz(samples: npt.NDArray[np.float32]) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax()) * SAMPLE_RATE / len(samples)


@pytest.mark.parametrize(
    ("format", "subtype", "rate", "channels", "tolerance"),
    [
        ("WAV", "PCM_16", 16000, 1, 1e-4),  # what most corpora are; nothing to resample
        ("WAV", "PCM_24", 48000, 2, 1e-3),  # studio recordings
        ("WAV", "FLOAT", 44100, 2, 1e-3),  # tools for editing; a rate that is no multiple
        ("WAV", "PCM_U8", 8000, 1, 2e-2),  # unsigned samples
        ("WAV", "ULAW", 8000, 1, 5e-2),  # telephone
        ("FLAC", "PCM_16", 16000, 1, 1e-4),  # LibriSpeech
        ("FLAC", "PCM_24", 44100, 2, 1e-3),
        ("OGG", "VORBIS", 22050, 1, 5e-2),
        ("OGG", "OPUS", 48000, 2, 5e-2),  # voice messages
        ("MP3", "MPEG_LAYER_III", 44100, 2, 5e-2),  # MPEG-1
        ("MP3", "MPEG_LAYER_III", 22050, 1, 5e-2),  # MPEG-2
        ("MP3", "MPEG_LAYER_III", 8000, 1, 8e-2),  # MPEG-2.5
        ("AIFF", "PCM_16", 44100, 1, 1e-3),
        ("NIST", "PCM_16", 16000, 1, 1e-4),  # LDC corpora
    ],
)
def test_each_container_gives_the_sound_that_went_in(
    tmp_path: Path, format: str, subtype: str, rate: int, channels: int, tolerance: float
) -> None:
    soundfile.write(tmp_path / "x", np.stack([sine(rate)] * channels, 1), rate, format=format, subtype=subtype)
    samples = read(tmp_path, "x")
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    # MP3 has no exact length; LAME's delay and padding are trimmed where its tag tells them.
    assert abs(len(samples) - SAMPLE_RATE) <= 2
    assert loudest_hertz(samples) == pytest.approx(HERTZ, abs=1.0)
    assert duration(resolve("x", tmp_path)) == pytest.approx(1.0, abs=1e-4)
    # Without the ends, where a resampler and a lossy coder ring. In phase, too: nothing is shifted.
    middle = slice(2000, 14000)
    assert np.abs(samples[middle] - sine(SAMPLE_RATE)[middle]).max() < tolerance


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192000])
def test_a_rate_keeps_pitch_and_length(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "x.wav", sine(rate, 0.7), rate)
    samples = read(tmp_path, "x.wav")
    assert abs(len(samples) - 0.7 * SAMPLE_RATE) <= 1
    assert loudest_hertz(samples) == pytest.approx(HERTZ, abs=1.5)


def test_what_16_khz_cannot_hold_is_filtered_not_folded(tmp_path: Path) -> None:
    # 10 kHz would come back as 6 kHz if samples were merely dropped.
    high = 0.5 * np.sin(2 * np.pi * 10000 * np.arange(48000) / 48000)
    soundfile.write(tmp_path / "x.wav", high, 48000, subtype="FLOAT")
    assert np.abs(read(tmp_path, "x.wav")[1000:-1000]).max() < 1e-4


def test_channels_are_mixed_by_their_mean(tmp_path: Path) -> None:
    left = noise(16000)
    soundfile.write(tmp_path / "x.wav", np.stack([left, 0 * left, -left / 2], 1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(read(tmp_path, "x.wav"), left / 6, atol=1e-7)


def test_channels_that_cancel_each_other_are_not_silence(tmp_path: Path) -> None:
    sound = sine(16000)
    opposite = np.stack([sound, -sound], axis=1)
    soundfile.write(tmp_path / "opposite.wav", opposite, 16000)
    message = "found 2 channels that cancel each other, so that their mean is silence, expected channels in phase; take"
    assert error_of(tmp_path, "opposite.wav").startswith(message)
    # Sound in one channel, near opposites, and real silence are what they are.
    soundfile.write(tmp_path / "one.wav", np.stack([sound, 0 * sound], axis=1), 16000)
    soundfile.write(tmp_path / "near.wav", np.stack([sound, -0.9 * sound], axis=1), 16000)
    soundfile.write(tmp_path / "silence.wav", 1e-4 * opposite, 16000)
    peaks = {name: float(np.abs(read(tmp_path, f"{name}.wav")).max()) for name in ("one", "near", "silence")}
    assert peaks == pytest.approx({"one": 0.25, "near": 0.025, "silence": 0.0}, abs=1e-3)


@pytest.mark.parametrize(("format", "bits"), [("WAV", 16), ("W64", 24), ("AIFF", 32), ("CAF", 16)])
def test_floats_in_units_of_integers_are_scaled_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, format: str, bits: int
) -> None:
    # Too soft for 0.1 s to be more than noise of integers.
    sound = sine(44100)
    sound[:30000] *= 1e-4
    full_scale = 2 ** (bits - 1)
    soundfile.write(tmp_path / "integers", sound * full_scale, 44100, subtype="FLOAT", format=format)
    soundfile.write(tmp_path / "floats.wav", sound, 44100, subtype="FLOAT")
    forget()
    np.testing.assert_allclose(read(tmp_path, "integers"), read(tmp_path, "floats.wav"), atol=1e-6)
    assert f"units of {bits}-bit integers: they were divided by {full_scale}" in caplog.text
    # A soft segment has the unit of its file.
    np.testing.assert_allclose(
        read(tmp_path, "integers:100:20000"), read(tmp_path, "floats.wav:100:20000"), atol=1e-6
    )
    with pytest.raises(AudioError, match=rf"found samples up to .* units of {bits}-bit .*float_units=scale"):
        read_audio(resolve("integers", tmp_path, scales_floats=False))


def test_samples_far_beyond_full_scale_are_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "beyond.wav", 1e12 * sine(16000), 16000, subtype="FLOAT")
    assert error_of(tmp_path, "beyond.wav") == "found samples up to 5e+11, expected them within 1, full scale"
    soundfile.write(tmp_path / "loud.wav", 6 * sine(16000), 16000, subtype="FLOAT")
    assert np.abs(read(tmp_path, "loud.wav")).max() == pytest.approx(3.0, abs=0.01)


def test_a_file_longer_than_one_block_is_whole(tmp_path: Path) -> None:
    # 100 s at 16 kHz: more than the 2**20 samples that are decoded at once.
    sound = noise(16000, 100)
    soundfile.write(tmp_path / "x.wav", sound, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read(tmp_path, "x.wav"), sound)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_segment_is_that_part_of_the_file(tmp_path: Path, format: str) -> None:
    soundfile.write(tmp_path / "x", noise(16000, 2), 16000, format=format)
    whole = read(tmp_path, "x")
    # The MP3 decoder's sums differ in the last bit by where it starts.
    np.testing.assert_allclose(read(tmp_path, "x:12345:6789"), whole[12345 : 12345 + 6789], rtol=0, atol=1e-6)
    np.testing.assert_allclose(read(tmp_path, "x:31999:1"), whole[31999:], rtol=0, atol=1e-6)
    assert duration(resolve("x:0:8000", tmp_path)) == 0.5


def test_a_segment_counts_samples_of_its_own_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", sine(48000, 2), 48000)
    assert len(read(tmp_path, "x.wav:24000:48000")) == SAMPLE_RATE


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_stored_zip_entry_is_read_where_it_lies(tmp_path: Path, format: str) -> None:
    soundfile.write(tmp_path / "x", noise(16000), 16000, format=format)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("first", b"something else")
        archive.write(tmp_path / "x", "x")
    data = (tmp_path / "x").read_bytes()
    audio = f"a.zip:{(tmp_path / 'a.zip').read_bytes().find(data)}:{len(data)}"
    np.testing.assert_array_equal(read(tmp_path, audio), read(tmp_path, "x"))
    assert duration(resolve(audio, tmp_path)) == duration(resolve("x", tmp_path))


def test_paths_are_relative_to_the_root_or_absolute(tmp_path: Path) -> None:
    (tmp_path / "sub dir").mkdir()
    soundfile.write(tmp_path / "sub dir" / "ü.wav", noise(16000), 16000)
    path = tmp_path / "sub dir" / "ü.wav"
    assert resolve("sub dir/ü.wav", tmp_path) == AudioSource("sub dir/ü.wav", path, "file", 0, None)
    assert resolve(str(path), Path("/nowhere")).path == path
    assert resolve(f"{path}:5:7", Path("/nowhere")) == AudioSource(f"{path}:5:7", path, "segment", 5, 7)


@pytest.mark.parametrize("name", ["a:0:100", "2024-01-01T10:20:30", "x.zip:3:4", "a:b:c.wav"])
def test_a_file_whose_name_has_colons_is_a_file(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, noise(16000), 16000, format="WAV")
    assert resolve(name, tmp_path).kind == "file"
    assert len(read(tmp_path, name)) == 16000
    assert len(read(tmp_path, f"{name}:10:20")) == 20


def test_a_stream_header_of_unknown_size_is_no_damage(tmp_path: Path) -> None:
    # What ffmpeg and sox write into a pipe.
    soundfile.write(tmp_path / "x.wav", noise(16000), 16000)
    data = bytearray((tmp_path / "x.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "x.wav").write_bytes(data)
    assert len(read(tmp_path, "x.wav")) == 16000


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(lambda mp3: b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + mp3, id="tag in front"),
        pytest.param(lambda mp3: mp3 + b"TAG" + bytes(125), id="tag behind"),
        pytest.param(lambda mp3: mp3 + bytes(500), id="padding behind"),
    ],
)
def test_an_mp3_with_tags_is_no_damage(tmp_path: Path, extra: Callable[[bytes], bytes]) -> None:
    soundfile.write(tmp_path / "x.mp3", noise(16000), 16000)
    (tmp_path / "y.mp3").write_bytes(extra((tmp_path / "x.mp3").read_bytes()))
    np.testing.assert_array_equal(read(tmp_path, "y.mp3"), read(tmp_path, "x.mp3"))


def frames_of(path: Path, data: bytes) -> Mp3Frames:
    path.write_bytes(data)
    with path.open("rb") as file:
        frames = read_frames(ByteRange(file.fileno(), 0, len(data)))
    assert frames is not None
    return frames


@pytest.mark.parametrize("rate", [44100, 48000, 32000, 22050, 24000, 16000, 11025, 12000, 8000])
def test_mp3_frames_are_counted_at_every_rate(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "x.mp3", noise(rate, 2), rate)
    frames = frames_of(tmp_path / "y", (tmp_path / "x.mp3").read_bytes())
    assert (frames.rate, frames.lost_at, frames.stated) == (rate, None, frames.count)
    assert 0 <= frames.samples - 2 * rate <= 4 * frames.samples_per_frame
    assert frames.length == 2 * rate


def test_mp3_frames_of_a_constant_bit_rate_are_padded(tmp_path: Path) -> None:
    def found(data: bytes) -> tuple[int, int | None]:
        frames = frames_of(tmp_path / "x", data)
        return frames.count, frames.lost_at

    # 128 kbit/s at 44.1 kHz: 417.96 bytes a frame, so most frames are one byte longer than 417.
    plain, padded = b"\xff\xfb\x90\x00" + bytes(413), b"\xff\xfb\x92\x00" + bytes(414)
    assert found((plain + 24 * padded) * 3) == (75, None)
    assert found(plain + padded + b"?" + plain + padded) == (4, 835)
    # A frame that is not whole does not count.
    assert found((plain + padded + plain)[:-1]) == (2, None)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ("none.wav", "found no such file at {root}/none.wav, expected an audio file"),
        ("none.wav:0:5", "found no such file at {root}/none.wav, expected an audio file"),
        ("none.zip:0:5", "found no such file at {root}/none.zip, expected an audio file"),
        ("ok.wav:-1:5", "found no such file at {root}/ok.wav:-1:5, expected an audio file"),  # no such form
        ("n" * 300, "found no such file at {root}/" + "n" * 300 + ", expected an audio file"),  # too long for a name
        ("zero\0byte", "found no such file at {root}/zero\0byte, expected an audio file"),
        ("folder", "found a directory, expected an audio file"),
        ("folder:0:5", "found a directory, expected an audio file"),
        ("socket", "found no regular file, expected an audio file"),  # opening it might wait for ever
        ("ok.wav:5:0", "found a range of length 0, expected at least 1"),
        ("ok.wav:15000:1001", "found 16000 samples, expected at least 16001 for the segment"),
        ("ok.wav:99999:1", "found 16000 samples, expected at least 100000 for the segment"),
        ("text.zip:90:50", "found an archive of 100 bytes, expected at least 140"),
        ("text.zip:10:50", "found no audio (text), expected wav, flac, mp3 or ogg"),
        ("text.wav", "found no audio (text), expected wav, flac, mp3 or ogg"),
        ("text.mp3", "found no audio (text), expected wav, flac, mp3 or ogg"),
        ("text.raw", "found no audio (text), expected wav, flac, mp3 or ogg"),  # soundfile asks for its rate
        ("text.vox", "found no audio (text), expected wav, flac, mp3 or ogg"),  # or takes any bytes
        ("bytes0.wav", "found no audio (an empty file), expected wav, flac, mp3 or ogg"),
        # libsndfile reads it.
        ("mat.mat", "found a file of format MAT5, expected wav, flac, mp3 or ogg; `sox IN OUT.wav` may convert it"),
        ("empty.wav", "found zero samples, expected some sound"),
        ("low.wav", "found a sample rate of 3999 Hz, expected 4000 to 192000 Hz"),
        ("high.wav", "found a sample rate of 384000 Hz, expected 4000 to 192000 Hz"),
        ("nan.wav", "found nan at sample 77, expected finite samples"),
        ("inf.wav", "found -inf at sample 77, expected finite samples"),
        ("tiny.wav", "found less than one sample at 16000 Hz, expected some sound"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, audio: str, message: str) -> None:
    soundfile.write(tmp_path / "ok.wav", noise(16000), 16000)
    (tmp_path / "folder").mkdir()
    for name in ("text.zip", "text.wav", "text.mp3", "text.raw", "text.vox"):
        (tmp_path / name).write_bytes(b"no sound. " * 10)
    (tmp_path / "bytes0.wav").touch()
    soundfile.write(tmp_path / "mat.mat", noise(16000), 16000, format="MAT5")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "low.wav", noise(3999), 3999)
    soundfile.write(tmp_path / "high.wav", noise(38400), 384000)
    soundfile.write(tmp_path / "tiny.wav", np.ones(1), 192000)
    for name, value in (("nan.wav", np.nan), ("inf.wav", -np.inf)):
        broken = noise(16000)
        broken[77] = value
        soundfile.write(tmp_path / name, broken, 16000, subtype="FLOAT")
    if audio == "socket":
        # A relative name, because a socket's path is short and pytest's folders are deep.
        before = os.getcwd()
        os.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind("socket")
        os.chdir(before)
    assert error_of(tmp_path, audio) == message.format(root=tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", noise(16000), 16000)
    (tmp_path / "x.wav").chmod(0)
    assert "cannot be read (Permission denied)" in error_of(tmp_path, "x.wav")


@pytest.mark.parametrize(
    ("format", "subtype", "message"),
    [
        ("WAV", "PCM_16", "bytes of samples where its header states"),
        ("WAV", "FLOAT", "bytes of samples where its header states"),
        ("AIFF", "PCM_16", "bytes of samples where its header states"),
        ("AU", "PCM_16", "bytes of samples where its header states"),
        ("W64", "PCM_16", "bytes of samples where its header states"),
        ("NIST", "PCM_16", "samples where its header states"),
        ("CAF", "PCM_16", "malformed"),
        ("FLAC", "PCM_16", "lost sync"),
        ("OGG", "VORBIS", "an incomplete page at the end"),
        ("OGG", "OPUS", "an incomplete page at the end"),
        ("MP3", "MPEG_LAYER_III", "MP3 frames for"),
    ],
)
def test_a_file_cut_short_is_never_played_to_the_break(tmp_path: Path, format: str, subtype: str, message: str) -> None:
    soundfile.write(tmp_path / "x", noise(16000, 3), 16000, format=format, subtype=subtype)
    cut(tmp_path / "x", 0.6)
    assert message in error_of(tmp_path, "x")


@pytest.mark.parametrize("format", ["FLAC", "OGG", "MP3"])
def test_a_hole_in_a_compressed_file_is_said(tmp_path: Path, format: str) -> None:
    soundfile.write(tmp_path / "x", noise(16000, 3), 16000, format=format)
    data = bytearray((tmp_path / "x").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    (tmp_path / "x").write_bytes(data)
    assert "expected" in error_of(tmp_path, "x")


def test_mp3_files_put_together_are_read_to_their_end(tmp_path: Path) -> None:
    # The tag in the first frame knows the first one only, and decoders stop there.
    soundfile.write(tmp_path / "x.mp3", noise(16000, 2), 16000)
    data = (tmp_path / "x.mp3").read_bytes()
    (tmp_path / "two.mp3").write_bytes(data + data)
    one, two = read(tmp_path, "x.mp3"), read(tmp_path, "two.mp3")
    assert len(two) / SAMPLE_RATE == pytest.approx(4, abs=0.25)
    assert duration(resolve("two.mp3", tmp_path)) * SAMPLE_RATE == len(two)
    # The encoder's delay is not taken off, and stays between the two.
    delay = np.correlate(two[:36000], one).argmax()
    assert 0 <= delay < 2000
    np.testing.assert_allclose(two[delay : delay + 30000], one[:30000], atol=1e-6)


def test_the_key_follows_the_file_and_the_range(tmp_path: Path) -> None:
    def key(audio: str) -> str:
        return audio_key(resolve(audio, tmp_path))

    soundfile.write(tmp_path / "x.wav", noise(16000), 16000)
    soundfile.write(tmp_path / "y.wav", noise(16000), 16000)
    os.utime(tmp_path / "y.wav", ns=(0, (tmp_path / "x.wav").stat().st_mtime_ns))
    audios: list[Any] = ["x.wav", "y.wav", "x.wav:0:16000", "x.wav:0:100", "x.wav:1:100"]
    assert len({key(audio) for audio in audios}) == len(audios)
    assert key("x.wav") == key(str(tmp_path / "x.wav"))

    before = key("x.wav")
    os.utime(tmp_path / "x.wav", ns=(0, 1))
    assert key("x.wav") != before

    source = resolve("x.wav", tmp_path)
    (tmp_path / "x.wav").unlink()
    with pytest.raises(AudioError, match="x.wav: found no such file"):
        audio_key(source)
    with pytest.raises(AudioError, match="x.wav: found no such file"):
        read_audio(source)
