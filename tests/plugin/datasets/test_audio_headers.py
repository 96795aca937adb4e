"""Files whose header was written before their length was known, or counts wrong: all of their samples are read."""

from __future__ import annotations

import io
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechllm_plugin.datasets.audio import SAMPLE_RATE, duration, read_audio, resolve
from speechllm_plugin.datasets.sound.notes import forget
from tests.plugin.sounds import Samples, error_of, noise, pcm16, read, shift_of, sweep

SECONDS = 3
SOUND = sweep(SAMPLE_RATE, SECONDS)
LIST = struct.pack("<4sI4s4sI8s", b"LIST", 20, b"INFO", b"ISFT", 8, b"recorder")

TAG = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)


def wav(data: bytes, stated: int, *, riff: int | None = None, front: bytes = b"", behind: bytes = b"") -> bytes:
    """16 bits, mono, 16 kHz, with a data chunk that says `stated` bytes."""
    size = 36 + len(front) + stated if riff is None else riff
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    head = struct.pack("<4sI4s", b"RIFF", min(size, 0xFFFFFFFF), b"WAVE") + form
    return head + front + struct.pack("<4sI", b"data", stated) + data + behind


def written(format: str, sound: Samples = SOUND, subtype: str | None = None, rate: int = SAMPLE_RATE) -> bytearray:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=format, subtype=subtype)
    return bytearray(file.getvalue())


def unsized(format: str) -> bytes:
    """A file of a program that writes to a pipe."""
    data = written(format)
    if format == "AIFF":
        place = data.find(b"SSND")
        data[place + 4 : place + 8] = struct.pack(">I", 0x7F000008)
        data[4:8] = struct.pack(">I", 0x7F000036)
    elif format == "CAF":
        data = written(format, subtype="PCM_16")
        place = data.find(b"data")
        data[place + 4 : place + 12] = b"\xff" * 8
    elif format == "FLAC":
        data[21] &= 0xF0
        data[22:26] = bytes(4)
    return bytes(data)


DATA = pcm16(SOUND)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(wav(DATA, 0, riff=0), id="size 0: a stream"),
        pytest.param(wav(DATA, 0, riff=0, front=LIST), id="size 0, with a chunk in front"),
        pytest.param(wav(DATA, 1_000_000_000), id="a speech server's 1e9"),
        pytest.param(wav(DATA, 2_000_000_000), id="a speech server's 2e9"),
        pytest.param(wav(DATA, 0x7FFFF000), id="sox to a pipe"),
        pytest.param(wav(DATA, 0xFFFFFFFF), id="ffmpeg to a pipe"),
        pytest.param(wav(DATA, len(DATA) + 8), id="8 too many"),
        pytest.param(wav(DATA, len(DATA) + 44), id="the size of the file"),
        pytest.param(wav(DATA, len(DATA) + 44 + len(LIST), front=LIST), id="the size of a file with a chunk in front"),
        pytest.param(wav(DATA, len(DATA), behind=LIST), id="a chunk behind"),
        pytest.param(wav(DATA, len(DATA), behind=b"TAG" + bytes(125)), id="a tag behind"),
        pytest.param(wav(DATA, len(DATA), behind=bytes(500)), id="padding behind"),
        pytest.param(TAG + wav(DATA, len(DATA)), id="a tag in front"),
        pytest.param(TAG + wav(DATA, 0), id="a tag in front of a stream"),
    ],
)
def test_all_samples_of_a_wav_are_read_and_no_others(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.raw").write_bytes(content)
    np.testing.assert_allclose(read(tmp_path, "x.raw"), SOUND, atol=1e-4)
    assert duration(resolve("x.raw", tmp_path)) == SECONDS
    np.testing.assert_allclose(read(tmp_path, "x.raw:20000:8000"), SOUND[20000:28000], atol=1e-4)


@pytest.mark.parametrize("format", ["WAV", "AIFF", "AU", "CAF"])
@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_either_byte_may_come_first(tmp_path: Path, format: str, endian: str) -> None:
    soundfile.write(tmp_path / "x", SOUND, SAMPLE_RATE, format=format, subtype="PCM_16", endian=endian)
    np.testing.assert_allclose(read(tmp_path, "x"), SOUND, atol=1e-4)
    np.testing.assert_allclose(read(tmp_path, "x:20000:8000"), SOUND[20000:28000], atol=1e-4)


def killed(format: str, samples: int) -> bytes:
    """A file of a recorder that stated the size of its first samples and did not come to correct it."""
    data = written(format, subtype="PCM_16")
    size = 2 * samples
    if format == "AIFF":
        for name, place, value in ((b"FORM", 4, 46 + size), (b"SSND", 4, 8 + size), (b"COMM", 10, samples)):
            begin = data.find(name) + place
            data[begin : begin + 4] = struct.pack(">I", value)
    elif format == "CAF":
        begin = data.find(b"data") + 4
        data[begin : begin + 8] = struct.pack(">q", 4 + size)
    else:
        data[8:12] = struct.pack(">I", size)
    return bytes(data)


@pytest.mark.parametrize("format", ["AIFF", "CAF", "AU"])
def test_a_recorder_that_was_killed(tmp_path: Path, format: str, caplog: pytest.LogCaptureFixture) -> None:
    forget()
    with caplog.at_level(logging.WARNING):
        (tmp_path / "x").write_bytes(killed(format, 0))
        np.testing.assert_allclose(read(tmp_path, "x"), SOUND, atol=1e-4)
        assert not caplog.records
        (tmp_path / "y").write_bytes(killed(format, 1600))
        np.testing.assert_allclose(read(tmp_path, "y"), SOUND, atol=1e-4)
    assert caplog.messages == ["y: the header states 0.10 s of sound, but 2.90 s more lie behind it and were read, too"]
    # What follows whole samples is none of them.
    tags = {"AIFF": struct.pack(">4sI4s", b"ANNO", 4, b"text"), "CAF": struct.pack(">4sq4s", b"info", 4, b"text")}
    (tmp_path / "z").write_bytes(bytes(written(format, subtype="PCM_16")) + tags.get(format, b"TAG" + bytes(125)))
    assert duration(resolve("z", tmp_path)) == SECONDS


@pytest.mark.parametrize("format", ["WAV", "AIFF", "CAF", "AU"])
def test_streams_put_together(tmp_path: Path, format: str) -> None:
    """No size tells where the second one begins."""
    au = bytearray(written("AU", subtype="PCM_16"))
    au[8:12] = b"\xff" * 4
    content = {"WAV": wav(DATA, 0xFFFFFFFF), "AU": bytes(au)}.get(format) or unsized(format)
    (tmp_path / "x").write_bytes(content * 2)
    np.testing.assert_allclose(read(tmp_path, "x"), np.tile(SOUND, 2), atol=1e-4)
    np.testing.assert_allclose(read(tmp_path, "x:40000:20000"), np.tile(SOUND, 2)[40000:60000], atol=1e-4)


def test_samples_in_a_second_chunk(tmp_path: Path) -> None:
    more = struct.pack("<4sI", b"data", len(DATA)) + DATA
    (tmp_path / "x.wav").write_bytes(wav(DATA, len(DATA), behind=more))
    # With the four samples that the head of the chunk makes.
    assert len(read(tmp_path, "x.wav")) == 2 * len(SOUND) + 4


@pytest.mark.parametrize("format", ["AIFF", "CAF", "FLAC"])
def test_a_stream_without_a_length_is_read_to_its_end(tmp_path: Path, format: str) -> None:
    (tmp_path / "x").write_bytes(unsized(format))
    np.testing.assert_allclose(read(tmp_path, "x"), SOUND, atol=1e-4)
    assert duration(resolve("x", tmp_path)) == SECONDS
    np.testing.assert_allclose(read(tmp_path, "x:20000:8000"), SOUND[20000:28000], atol=1e-4)


@pytest.mark.parametrize("seconds", [0.01, 0.3, 30])
def test_frames_tell_the_length_of_a_flac(tmp_path: Path, seconds: float) -> None:
    """One frame; a few; more than the tail that is looked at, and noise, among which chance finds no frames."""
    data = written("FLAC", noise(SAMPLE_RATE, seconds))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(data)
    assert duration(resolve("x.flac", tmp_path)) == seconds
    assert len(read(tmp_path, "x.flac")) == seconds * SAMPLE_RATE


def test_bytes_that_look_like_a_frame_of_flac_are_none(tmp_path: Path) -> None:
    """In a block of an application's stands the header of a frame far behind the end, with every possible checksum."""
    fakes = b"".join(b"\xff\xf8\xc5\x08\xdf\xbf" + bytes((number,)) for number in range(256))
    data = written("FLAC", noise(SAMPLE_RATE, 2))
    data[42:42] = b"\x02" + (4 + len(fakes)).to_bytes(3, "big") + b"test" + fakes
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(data)
    assert duration(resolve("x.flac", tmp_path)) == 2


def test_a_recorder_that_was_killed_left_its_sound_behind_its_header(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forget()
    for number in range(10):
        (tmp_path / f"{number}.wav").write_bytes(wav(DATA, 3200))
    with caplog.at_level(logging.WARNING):
        for number in range(10):
            assert len(read(tmp_path, f"{number}.wav")) == len(SOUND)
            read(tmp_path, f"{number}.wav:100:200")
    assert [record.getMessage() for record in caplog.records] == [
        f"{name}: the header states 0.10 s of sound, but 2.90 s more lie behind it and were read, too{count}"
        for name, count in (("0.wav", ""), ("9.wav", " (10 such files so far)"))
    ]


def test_a_wav_that_was_cut_short_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(DATA, len(DATA))[:-1000])
    assert error_of(tmp_path, "x.wav") == (
        f"found {len(DATA) - 1000} bytes of samples where its header states {len(DATA)}, expected a whole file"
    )
    # Nothing was recorded, and a chunk follows.
    (tmp_path / "empty.wav").write_bytes(wav(b"", 0, behind=LIST))
    assert error_of(tmp_path, "empty.wav") == "found zero samples, expected some sound"


def test_a_wav_beyond_4_gib_is_more_than_its_header_can_say(tmp_path: Path) -> None:
    """37 hours. The file is sparse: it takes no room."""
    size = (1 << 32) + 3_200_000
    path = tmp_path / "x.wav"
    path.write_bytes(wav(b"", 3_200_000))
    with path.open("r+b") as file:
        file.truncate(44 + size)
        file.seek(44 + size - len(DATA))
        file.write(DATA)
    assert duration(resolve("x.wav", tmp_path)) == size / 32000
    np.testing.assert_allclose(read(tmp_path, f"x.wav:{size // 2 - len(SOUND)}:{len(SOUND)}"), SOUND, atol=1e-4)


def test_an_rf64_that_was_killed(tmp_path: Path) -> None:
    data = written("RF64")
    place = data.find(b"ds64")
    # The sizes of the file and of the samples, and the number of samples, which the writer would have filled in.
    data[place + 8 : place + 32] = bytes(24)
    (tmp_path / "x.wav").write_bytes(data)
    np.testing.assert_allclose(read(tmp_path, "x.wav"), SOUND, atol=1e-4)
    # Whole, its sizes stand in another chunk; what lies behind the samples is none of them.
    (tmp_path / "x.wav").write_bytes(written("RF64") + LIST)
    assert duration(resolve("x.wav", tmp_path)) == SECONDS


def test_gsm_in_a_wav_ends_where_its_header_says(tmp_path: Path) -> None:
    """A block of 65 bytes holds two frames of 160 samples; the header counts the samples."""
    sound = sweep(8000, 2)
    data = written("WAV", sound, "GSM610", 8000)
    place = data.find(b"fact")
    data[place + 8 : place + 12] = struct.pack("<I", 15700)
    (tmp_path / "x.wav").write_bytes(data)
    assert duration(resolve("x.wav", tmp_path)) == 15700 / 8000
    assert len(read(tmp_path, "x.wav")) == 31400


@pytest.mark.parametrize("subtype", ["GSM610", "NMS_ADPCM_32", "G721_32", "IMA_ADPCM", "MS_ADPCM", "ULAW"])
def test_a_segment_where_libsndfile_cannot_seek(tmp_path: Path, subtype: str) -> None:
    format = "AU" if subtype == "G721_32" else "WAV"
    soundfile.write(tmp_path / "x", sweep(16000, 2), 16000, format=format, subtype=subtype)
    whole = read(tmp_path, "x")
    np.testing.assert_allclose(read(tmp_path, "x:20001:7000"), whole[20001:27001], atol=1e-6)


def test_bare_frames_of_gsm(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.gsm", sweep(8000, 2), 8000, format="RAW", subtype="GSM610")
    assert shift_of(read(tmp_path, "x.gsm"), sweep(16000, 2))[1] > 0.95


def test_a_length_that_no_memory_holds(tmp_path: Path) -> None:
    data = written("FLAC")
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    (tmp_path / "x.flac").write_bytes(data)
    assert error_of(tmp_path, "x.flac").endswith("expected 68719476735 samples")


def test_damage_in_front_of_a_segment_is_one_line(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.flac", noise(16000, 20), 16000)
    data = bytearray((tmp_path / "x.flac").read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    (tmp_path / "x.flac").write_bytes(data)
    assert "expected" in error_of(tmp_path, "x.flac:120000:16000", read_audio)
    assert len(read(tmp_path, "x.flac:100:16000")) == 16000


def test_a_codec_that_nothing_here_decodes_is_named(tmp_path: Path) -> None:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 0x161, 1, 16000, 4000, 1, 16)
    data = struct.pack("<4sI", b"data", 1000) + bytes(1000)
    (tmp_path / "x.wav").write_bytes(struct.pack("<4sI4s", b"RIFF", 1036, b"WAVE") + form + data)
    assert "found Windows Media Audio (format 0x0161) in wav" in error_of(tmp_path, "x.wav")
    header = b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\n"
    (tmp_path / "x.sph").write_bytes(header.ljust(1024) + b"ajkg")
    assert "sph2pipe" in error_of(tmp_path, "x.sph")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("x.g722", "by its name G.722: `ffmpeg -f g722 -i IN OUT.wav`"),
        ("call.UL", "by its name u-law: `ffmpeg -f mulaw -ar 8000 -ac 1 -i IN OUT.wav`"),
        ("x.g722:0:100", "by its name G.722"),
        ("x.pcm", "`ffmpeg -f s16le -ar 16000 -ac 1 -i IN OUT.wav` for 16 bits at 16 kHz"),
    ],
)
def test_samples_without_a_header(tmp_path: Path, name: str, command: str) -> None:
    """Bytes that by chance hold no control character are no text for that."""
    (tmp_path / name.partition(":")[0]).write_bytes(bytes(range(0x40, 0x100)) * 100)
    assert command in error_of(tmp_path, name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><p>404", "a page of HTML"),
        (bytes(5000), "zero bytes alone"),
        (bytes(5000) + pcm16(noise(16000)), "no header that tells what it is"),
        (b"feelfree to call", "(text)"),
        (b"PK\x03\x04" + bytes(50), "a zip archive; a stored entry is ARCHIVE.zip:OFFSET:LENGTH"),
        (b"version https://git-lfs.github.com/spec/v1\n", "`git lfs pull`"),
        (pcm16(noise(16000)), "no header that tells what it is; raw samples need one: `ffmpeg -f s16le"),
    ],
)
def test_what_is_no_sound_is_called_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    assert message in error_of(tmp_path, "x.wav")
