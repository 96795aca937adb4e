"""Clips that are given from Python: a file, several, or arrays of samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechllm_plugin.datasets.audio import AudioError
from speechllm_plugin.inference.reading import batch_of_files


@pytest.fixture
def samples() -> np.ndarray:
    return (0.3 * np.random.default_rng(0).standard_normal(4000).clip(-3, 3)).astype(np.float32)


def test_one_clip_is_a_batch_of_one(samples: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "clip.wav"
    soundfile.write(file, samples, 16000, subtype="FLOAT")
    for clip in (str(file), file, samples, torch.from_numpy(samples)):
        batch = batch_of_files(clip, "en", None)
        assert len(batch) == 1 and batch.seconds == [0.25]
        assert torch.equal(torch.as_tensor(batch.waveforms[0]), torch.from_numpy(samples))


def test_files_and_arrays_together(samples: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", samples, 16000, subtype="FLOAT")
    given = samples.astype(np.float64)[::-1]
    batch = batch_of_files([given, tmp_path / "clip.wav", torch.from_numpy(samples)], "en", "de")
    assert [clip.audio for clip in batch] == ["audio[0]", str(tmp_path / "clip.wav"), "audio[2]"]
    assert len({clip.audio_key for clip in batch}) == 3 and [clip.target_lang for clip in batch] == ["de"] * 3
    first = batch.waveforms[0]
    assert first is not None and first.dtype == torch.float32
    first.zero_()
    assert given.any()  # the caller's own is left alone


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (np.zeros((2, 4000), np.float32), "audio[0]: found an array of shape (2, 4000), expected one dimension"),
        (np.zeros(0, np.float32), "audio[0]: found an array of shape (0,)"),
        (np.zeros(4000, np.int16), "audio[0]: found an array of int16, expected floats from -1 to 1"),
        (np.array(["a", "b"]), "audio[0]: found an array of <U1, expected floats"),
        (np.full(4000, 3000.0), "audio[0]: found samples up to 3000, expected floats from -1 to 1"),
        (np.full(4000, np.nan), "audio[0]: found samples up to nan"),
        ([0.1, 0.2], "audio[0]: found 0.1, expected a file or an array of samples at 16000 Hz"),
        ([None], "audio[0]: found None, expected a file"),
    ],
)
def test_what_is_no_clip_is_one_line(clip: object, words: str) -> None:
    with pytest.raises(AudioError) as caught:
        batch_of_files(clip, "en", None)  # type: ignore[arg-type]
    assert str(caught.value).startswith(words)
