"""Spoken sentences, by espeak-ng."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import soxr
from speechllm_tools.speech.espeak import Espeak

RATE = 16000


def speak(sentences: Sequence[str], *, words_per_minute: int = 160) -> list[npt.NDArray[np.float32]]:
    """Each sentence at 16 kHz, without the silence around it."""
    espeak = Espeak()
    clips = []
    for sentence in sentences:
        speech = espeak.speak(sentence, voice="en-US", words_per_minute=words_per_minute, pitch=50) / 32768
        clip = soxr.resample(speech.astype(np.float32), espeak.sample_rate, RATE)
        loud = np.flatnonzero(np.abs(clip) > 0.01)
        clips.append(clip[loud[0] : loud[-1] + 1])
    return clips


def silence(seconds: float) -> npt.NDArray[np.float32]:
    return np.zeros(round(seconds * RATE), dtype=np.float32)
