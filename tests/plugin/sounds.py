"""Sound for the tests of audio files, and what is read of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from speechllm_plugin.datasets.audio import AudioError, AudioSource, read_audio, resolve

Samples = npt.NDArray[np.float32]


def sweep(rate: int, seconds: float = 1.0, first: float = 200.0) -> Samples:
    """A tone that rises by 300 Hz a second: no two places of it are alike."""
    times = np.arange(round(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * (first + 150 * times) * times)).astype(np.float32)


def noise(rate: int, seconds: float = 1.0, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(rate * seconds)).astype(np.float32)


def pcm16(samples: Samples) -> bytes:
    return bytes((samples * 32767).round().astype("<i2").tobytes())


def read(folder: Path, audio: str, channel: int | None = None) -> Samples:
    return read_audio(resolve(audio, folder, channel))


def error_of(folder: Path, audio: str, use: Callable[[AudioSource], object] = read_audio) -> str:
    """The one line that says what is wrong, behind the file's name."""
    with pytest.raises(AudioError) as caught:
        use(resolve(audio, folder))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{audio}: found ") or message.startswith(f"{audio}: cannot be read")
    return message.removeprefix(f"{audio}: ")


def shift_of(found: Samples, expected: Samples) -> tuple[int, float]:
    """Where `expected` lies in `found`, in samples, and how like it is there (1 = the same)."""
    size = 1 << (len(found) + len(expected)).bit_length()
    match = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(expected, size)), size)
    place = int(match.argmax())
    likeness = match[place] / (np.linalg.norm(found) * np.linalg.norm(expected))
    return (place if place < size // 2 else place - size), float(likeness)
