"""A speaker a channel, as in telephone calls; and an hour, of which little is in memory at a time."""

from __future__ import annotations

import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechllm_plugin.datasets.audio import AudioError, audio_key, count_channels, read_audio, resolve, stream_audio
from speechllm_plugin.datasets.manifest import ManifestRow, read_manifest, write_manifest
from speechllm_plugin.datasets.sound.notes import forget
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.reading import batch_of_files
from tests.plugin.sounds import error_of, noise, read

SPEAKERS = [noise(16000, 2, seed) for seed in range(2)]


@pytest.fixture
def call(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "call.wav", np.stack(SPEAKERS, axis=1), 16000, subtype="FLOAT")
    return tmp_path


def test_one_channel_is_read_alone(call: Path) -> None:
    for number, speaker in enumerate(SPEAKERS, start=1):
        np.testing.assert_array_equal(read(call, "call.wav", number), speaker)
        np.testing.assert_array_equal(read(call, "call.wav:100:200", number), speaker[100:300])
    assert count_channels(resolve("call.wav", call)) == 2
    keys = {audio_key(resolve("call.wav", call, channel)) for channel in (None, 1, 2)}
    assert len(keys) == 3
    with pytest.raises(AudioError, match=r"^call.wav: found 2 channel\(s\), expected at least 3 for channel 3$"):
        read(call, "call.wav", 3)
    batch = batch_of_files([resolve("call.wav", call, 2), call / "call.wav"], "en", None)
    waveform = batch.waveforms[0]
    assert waveform is not None
    np.testing.assert_array_equal(waveform.numpy(), SPEAKERS[1])


def test_a_manifest_names_the_channel(call: Path) -> None:
    rows = [
        ManifestRow(str(number), "call.wav", None, "hello", "", "", "en", "en", 2 + number, channel)
        for number, channel in enumerate((1, 2, None))
    ]
    write_manifest(call / "m.tsv", rows)
    assert read_manifest(call / "m.tsv") == rows
    first, second, mixed = SpeechTextDataset(SpeechTextConfig(manifests={"t": str(call / "m.tsv")})).read("t")
    np.testing.assert_array_equal(read_audio(first.source()), SPEAKERS[0])
    np.testing.assert_array_equal(read_audio(second.source()), SPEAKERS[1])
    np.testing.assert_allclose(read_audio(mixed.source()), (SPEAKERS[0] + SPEAKERS[1]) / 2, atol=1e-7)
    (call / "m.tsv").write_text("id\taudio\ttgt_text\tchannel\na\tcall.wav\thello\tleft\n")
    with pytest.raises(UserError, match="column 'channel': found 'left', expected the number of a channel, from 1 on"):
        read_manifest(call / "m.tsv")


def test_the_mix_of_different_channels_is_said_once_with_counts(
    call: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forget()
    for number in range(10):
        (call / f"{number}.wav").write_bytes((call / "call.wav").read_bytes())
    one = SPEAKERS[0]
    # Alike: two microphones, one of them a little later and with noise of its own. One speaker, and a silent line.
    alike = np.stack([one, 0.7 * one + 0.3 * SPEAKERS[1]], axis=1)
    soundfile.write(call / "alike.wav", alike, 16000)
    soundfile.write(call / "silent.wav", np.stack([one, 0 * one], axis=1), 16000)
    with caplog.at_level(logging.WARNING):
        for name in ("alike", "silent", *range(10), *range(10)):
            read(call, f"{name}.wav")
        read(call, "call.wav", 1)
    lines = [record.getMessage() for record in caplog.records]
    assert [line[:5] for line in lines] == ["0.wav", "9.wav"]
    assert "2 channels of different sound (correlation" in lines[0] and "`channel`" in lines[0]
    assert lines[1].endswith("(10 such files so far)")


def test_opposite_channels_are_read_one_by_one(tmp_path: Path) -> None:
    one = noise(16000)
    soundfile.write(tmp_path / "x.wav", np.stack([one, -one], axis=1), 16000, subtype="FLOAT")
    assert "channels that cancel each other" in error_of(tmp_path, "x.wav")
    np.testing.assert_array_equal(read(tmp_path, "x.wav", 2), -one)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_stream_is_the_whole_in_little_memory(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "x.wav", noise(rate, 120), rate)
    source = resolve("x.wav", tmp_path)
    whole = read_audio(source)
    tracemalloc.start()
    place = 0
    for block in stream_audio(source):
        np.testing.assert_array_equal(block, whole[place : place + len(block)])
        place += len(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert place == len(whole) == 120 * 16000
    assert peak < 6e6 < whole.nbytes


def test_a_length_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.flac", noise(16000, 10), 16000)
    # Damaged where decoding would begin: whoever decodes says so.
    data = bytearray((tmp_path / "x.flac").read_bytes())
    data[200:] = bytes(len(data) - 200)
    (tmp_path / "x.flac").write_bytes(data)

    def refuse(seconds: float) -> None:
        raise UserError(f"{seconds} s is too long")

    with pytest.raises(UserError, match=r"^10.0 s is too long$"):
        read_audio(resolve("x.flac", tmp_path), refuse)
