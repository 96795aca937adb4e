"""Finds the place and the length of a clip's sound, for a manifest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from pathlib import Path

from speechllm_plugin.datasets.audio import (
    AudioError,
    AudioSource,
    count_channels,
    duration,
    resolve,
    sample_rate,
    stored_bytes,
)
from speechllm_tools.prepare.api import Sound
from speechllm_tools.prepare.storage import suffix_of
from speechllm_tools.prepare.writing import told

MISSING = "no such audio file"
UNREADABLE = "audio that cannot be read"
NO_CHANNEL = "channel that its file does not have"
OUTSIDE = "segment outside of its file"
FAR_OVER = "segment more than 1 s over the end of its file"
CLIPPED = "segments clipped to the end of their file"
OTHER_LENGTH = "stated durations that are not the file's (the file's taken)"
_SLACK_SECONDS = 1
# Larger than the differences between decoders of mp3, and than rounding to hundredths.
_SAME_SECONDS = 0.1


@dataclass(frozen=True)
class Measured:
    audio: str
    """The place in the form of a manifest."""
    seconds: float
    changes: tuple[str, ...] = ()
    whole: bool = True
    """Whether the clip is the whole file."""


class Unusable(Exception):
    """
    :param reason: the reason, in the same words for all such clips.
    :param message: the message about this clip.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message


@contextmanager
def on_disk(sound: Sound) -> Iterator[Sound]:
    """The sound as a file of its own. If it has `data`, or is a segment of an archive's entry, the file exists only
    inside the context.

    :raises Unusable: the archive cannot be read.
    """
    if sound.data is None and not sound.cut_out:
        yield sound
        return
    data = _entry(sound.audio) if sound.data is None else sound.data
    with tempfile.NamedTemporaryFile(suffix=suffix_of(sound.audio, data)) as file:
        with told(Path(file.name)):
            file.write(data)
            file.flush()
        try:
            yield replace(sound, audio=file.name, data=None)
        except Unusable as error:
            raise Unusable(error.reason, error.message.replace(file.name, sound.audio)) from None


def _entry(audio: str) -> bytes:
    """
    :param audio: ``archive.zip:offset:length``.
    """
    try:
        return stored_bytes(source_of(audio))
    except AudioError as error:
        raise Unusable(UNREADABLE, str(error)) from None


def measure(sound: Sound) -> Measured:
    """Looks at the header only.

    :param sound: as `on_disk` gives it.
    :raises Unusable: it cannot be read, lacks the channel, or a segment does not lie in it.
    """
    try:
        if sound.channel is not None and (channels := _channels(sound.audio)) < sound.channel:
            raise Unusable(
                NO_CHANNEL, f"{sound.audio}: found {channels} channel(s), expected at least {sound.channel}"
            )
        if sound.offset is not None:
            return _measure_segment(sound, sound.offset)
        seconds = duration(source_of(sound.audio))
    except AudioError as error:
        raise Unusable(UNREADABLE, str(error)) from None
    stated = sound.seconds
    other = stated is not None and abs(float(stated) - seconds) > _SAME_SECONDS
    return Measured(sound.audio, seconds, (OTHER_LENGTH,) if other else ())


def source_of(audio: str, channel: int | None = None) -> AudioSource:
    """
    :raises Unusable: there is no such file.
    :raises AudioError: it is no file, or has no such range.
    """
    try:
        return resolve(audio, Path(), channel)
    except AudioError as error:
        path = audio.rsplit(":", 2)[0] if audio.count(":") >= 2 else audio
        if os.path.exists(audio) or os.path.exists(path):
            raise
        raise Unusable(MISSING, str(error)) from None


def nearest(seconds: Decimal, rate: int) -> int:
    """The sample nearest to a time: 2.01 s at 16 kHz is 32160, while floats rounded down would give 32159."""
    return int((seconds * rate).to_integral_value(ROUND_HALF_UP))


def _measure_segment(sound: Sound, offset: Decimal) -> Measured:
    path, first, samples, rate = _length(sound.audio)
    start = nearest(offset, rate)
    length = samples - start if sound.seconds is None else nearest(sound.seconds, rate)
    where = f"{sound.audio}, segment from {offset} s, {length / rate:g} s long"
    if start >= samples or length <= 0:
        raise Unusable(OUTSIDE, f"{where}: the file has {samples / rate:g} s")
    over = start + length - samples
    if over > _SLACK_SECONDS * rate:
        raise Unusable(FAR_OVER, f"{where}: the file has {samples / rate:g} s")
    length -= max(0, over)
    changes, whole = (CLIPPED,) if over > 0 else (), start == 0 and length == samples
    return Measured(f"{path}:{first + start}:{length}", length / rate, changes, whole)


# Cached, since the segments of a talk follow each other.
@lru_cache(maxsize=16)
def _channels(audio: str) -> int:
    return count_channels(source_of(audio))


@lru_cache(maxsize=16)
def _length(audio: str) -> tuple[str, int, int, int]:
    """
    :param audio: a file, or a segment of one.
    :returns: the file, the first sample in it, the number of samples, and their rate.
    """
    source = source_of(audio)
    rate = sample_rate(source)
    # `duration` also looks for damage.
    samples = round(duration(source) * rate)
    return (str(source.path), source.start, samples, rate) if source.kind == "segment" else (audio, 0, samples, rate)
