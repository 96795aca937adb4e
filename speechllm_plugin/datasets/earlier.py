"""What was said in the turns before a clip: as it is in its files, whatever becomes of the clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from speechllm_plugin.datasets.audio import SAMPLE_RATE, AudioError, audio_key, duration, read_audio, resolve
from speechllm_plugin.datasets.batch import Clip
from speechllm_plugin.datasets.utterances import Utterance
from speechllm_plugin.encoders.api import too_long
from speechllm_plugin.files.remote import Location


class EarlierError(AudioError):
    """The speech of an earlier turn cannot be used."""


def earlier_seconds(utterance: Utterance, window: float | None = None) -> list[float]:
    """
    :param window: see `read_earlier`.
    :raises EarlierError: as there, as far as headers tell.
    """
    with _told():
        return [
            _within(duration(resolve(turn.audio, utterance.root, scales_floats=utterance.scales_floats)), window)
            for turn in utterance.row.asks.heard
        ]


def read_earlier(
    clip: Clip,
    root: Location,
    window: float | None,
    *,
    scales_floats: bool = True,
    find_features: Callable[[str], Tensor | None] = lambda key: None,
) -> list[Clip]:
    """
    :param root: folder that relative paths start from.
    :param window: the longest clip that the encoder takes, in seconds; None = any.
    :param find_features: see `SpeechTextReader`.
    :raises EarlierError: a file is missing, cannot be read or is longer than that.
    """
    return [_read(clip, turn.audio, root, window, scales_floats, find_features) for turn in clip.asks.heard]


def _read(
    clip: Clip, audio: str, root: Location, window: float | None, scales_floats: bool,
    find_features: Callable[[str], Tensor | None],
) -> Clip:  # fmt: skip
    waveform = None
    with _told():
        source = resolve(audio, root, scales_floats=scales_floats)
        key = audio_key(source)
        if (features := find_features(key)) is not None:
            seconds = duration(source)
        else:
            waveform = torch.from_numpy(read_audio(source, check=lambda seconds: _within(seconds, window)))
            seconds = _within(len(waveform) / SAMPLE_RATE, window)
    return Clip(
        id=f"{clip.id}, {audio}", row=clip.row, task=clip.task, source_lang=clip.source_lang,
        target_lang=clip.target_lang, audio=audio, audio_key=key, seconds=seconds, waveform=waveform, features=features,
    )  # fmt: skip


def _within(seconds: float, window: float | None) -> float:
    if window is not None and seconds > window:
        raise AudioError(too_long(seconds, window))
    return seconds


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except AudioError as error:
        raise EarlierError(str(error)) from error
