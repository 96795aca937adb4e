"""Makes a batch from audio files or samples, without a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechllm_plugin.datasets.audio import (
    SAMPLE_RATE,
    AudioError,
    AudioSource,
    audio_key,
    read_audio,
    resolve,
)
from speechllm_plugin.datasets.batch import Clip, SpeechTextBatch
from speechllm_plugin.datasets.earlier import read_earlier
from speechllm_plugin.datasets.sound.float_sound import LOUDEST
from speechllm_plugin.encoders.api import too_long
from speechllm_plugin.errors import UserError
from speechllm_plugin.tasks.api import Task, task_of_languages
from speechllm_plugin.tasks.row_prompt import NOTHING, RowPrompt


@dataclass(frozen=True)
class Named:
    """Samples that were read already, with the name of their file, which errors tell and random draws are seeded by."""

    name: str
    samples: npt.NDArray[np.float32]


Audio = Path | str | AudioSource | Named | np.ndarray | Tensor
"""A file, `resolve(FILE, Path(), channel=N)` for one of its channels, or samples at 16 kHz: one dimension of floats
from -1 to 1."""


def batch_of_files(
    audio: Audio | Sequence[Audio],
    source_lang: str,
    target_lang: str | None,
    *,
    max_seconds: float | None = None,
    task: Task | None = None,
    asks: RowPrompt = NOTHING,
) -> SpeechTextBatch:
    """
    :param audio: clips; one alone is a batch of one.
    :param max_seconds: the encoder's window; None = any length. A file whose header states more is not decoded.
    :param task: the task of all clips; None = the languages decide.
    :param asks: further parts of the prompt of all clips; speech in its earlier turns is read, too.
    :raises AudioError: a file is missing, is not audio, or holds no samples; an array is no waveform.
    :raises UserError: a clip is longer than `max_seconds`; no clip is cut.
    """

    def check(name: str, seconds: float) -> None:
        if max_seconds is not None and seconds > max_seconds:
            raise UserError(f"{name}: {too_long(seconds, max_seconds)}")

    task = task or task_of_languages(source_lang, target_lang)
    clips = []
    for number, clip in enumerate([audio] if isinstance(audio, Audio) else audio):
        if isinstance(clip, (Path, str, AudioSource)):
            source = clip if isinstance(clip, AudioSource) else resolve(str(clip), Path())
            name, key, waveform = source.name, audio_key(source), _read(source, check)
        else:
            name = clip.name if isinstance(clip, Named) else f"audio[{number}]"
            waveform = _samples(clip.samples if isinstance(clip, Named) else clip, name)
            key = hashlib.sha256(waveform.numpy().tobytes()).hexdigest()
        seconds = len(waveform) / SAMPLE_RATE
        check(name, seconds)
        clips.append(
            Clip(
                id=name, row=number, task=task, source_lang=source_lang, target_lang=target_lang or source_lang,
                audio=name, audio_key=key, seconds=seconds, waveform=waveform, asks=asks,
            )
        )  # fmt: skip
    if asks.heard and clips:
        earlier = read_earlier(clips[0], Path(), max_seconds)
        for one in clips:
            one.earlier = earlier
    return SpeechTextBatch(clips)


def _read(source: AudioSource, check: Callable[[str, float], None]) -> Tensor:
    return torch.from_numpy(read_audio(source, check=lambda seconds: check(source.name, seconds)))


def _samples(clip: object, name: str) -> Tensor:
    """
    :raises AudioError: the array is no waveform.
    """
    if not isinstance(clip, (np.ndarray, Tensor)):
        raise AudioError(f"{name}: found {clip!r:.60}, expected a file or an array of samples at {SAMPLE_RATE} Hz")
    if isinstance(clip, np.ndarray):
        if clip.dtype.kind not in "fiu":
            raise AudioError(f"{name}: found an array of {clip.dtype}, expected floats from -1 to 1")
        clip = np.ascontiguousarray(clip)  # PyTorch takes no array with negative strides
    waveform = torch.as_tensor(clip).detach().cpu()
    if waveform.dim() != 1 or waveform.numel() == 0:
        raise AudioError(
            f"{name}: found an array of shape {tuple(waveform.shape)}, expected one dimension, samples at "
            f"{SAMPLE_RATE} Hz in mono"
        )
    if not waveform.is_floating_point():
        raise AudioError(f"{name}: found an array of {str(waveform.dtype)[6:]}, expected floats from -1 to 1")
    # Copied, so that the caller's array is not changed.
    waveform = waveform.to(torch.float32, copy=True).contiguous()
    if not (peak := float(waveform.abs().max())) <= LOUDEST:
        raise AudioError(f"{name}: found samples up to {peak:g}, expected floats from -1 to 1")
    return waveform
