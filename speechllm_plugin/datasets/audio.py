"""Sound from disk: one channel, 16 kHz, float32, or one clear line that says why not.

A manifest names sound in one of three forms:

``path``                      a file, absolute or relative to the audio root
``archive.zip:offset:length``  the bytes of a stored (uncompressed) zip entry, itself a file of any format below
``path:start:length``         a segment of a longer file, in samples at that file's own rate

A file whose own name looks like one of the last two is taken as the file. Formats are those of libsndfile that say
their own sample rate: wav, flac, mp3, ogg (Vorbis, Opus), aiff, au, caf, w64 and NIST SPHERE.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from speechllm_plugin.datasets.damage import MP3_SLACK, find_damage
from speechllm_plugin.errors import UserError

SAMPLE_RATE = 16000
"""Samples per second of everything that :func:`read_audio` returns."""

_RATES = range(4000, 192_001)
_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "NIST"})
_RANGE = re.compile(r"(?P<path>.+):(?P<start>[0-9]+):(?P<length>[0-9]+)", re.DOTALL)
_BLOCK = 1 << 20
# Floating point numbers may go beyond full scale (1) a little; speech in units of integers reaches hundreds.
_LOUDEST = 10.0
# Mean squares: of channels that are not silent, and of their mean beside them (-60 dB) where they cancel each other.
_SOUNDING = 1e-6
_CANCELLED = 1e-6
# libsndfile's largest count, which stands for "the header does not say".
_UNKNOWN_LENGTH = (1 << 63) - 1


class AudioError(UserError):
    """Sound that cannot be used; the message is one line that begins with the path as the user gave it."""


@dataclass(frozen=True)
class AudioSource:
    """Where one utterance's sound lies; made by :func:`resolve`."""

    name: str
    """What the user wrote, for messages."""

    path: Path
    """The file that holds the bytes."""

    kind: Literal["file", "zip", "segment"]

    start: int
    """First byte (``zip``) or first sample (``segment``); 0 for a ``file``."""

    length: int | None
    """Number of bytes (``zip``) or samples (``segment``); ``None`` for a ``file``, which is read to its end."""


def resolve(audio: str, root: Path) -> AudioSource:
    """Find the file behind a manifest's ``audio`` field. Looks at names and sizes only, opens nothing.

    :param root: folder that relative paths start from.
    :raises AudioError: there is no such file, it is no regular file, or a range is empty or beyond an archive's end.
    """
    whole = root / audio
    if _stat(whole) is None and (match := _RANGE.fullmatch(audio)):
        path, start, length = root / match["path"], int(match["start"]), int(match["length"])
        status = _check_file(audio, path)
        if length == 0:
            raise AudioError(f"{audio}: found a range of length 0, expected at least 1")
        is_zip = path.suffix.lower() == ".zip"
        if is_zip:
            _check_range(audio, start, length, status.st_size)
        return AudioSource(audio, path, "zip" if is_zip else "segment", start, length)
    _check_file(audio, whole)
    return AudioSource(audio, whole, "file", 0, None)


def read_audio(source: AudioSource) -> npt.NDArray[np.float32]:
    """Decode to ``[samples]``, float32, at 16 kHz: channels mixed by their mean, then resampled (soxr, HQ).

    The whole sound is held in memory; where a limit matters, ask :func:`duration` first.

    :raises AudioError: not readable, not audio, empty, cut short, damaged, non-finite, far beyond full scale, at a
        rate outside 4 to 192 kHz, shorter than the segment asks for, or of channels whose mean is silence.
    """
    with _open(source) as (file, length):
        samples = _decode(source, file, length)
        rate = file.samplerate
    if not np.isfinite(samples).all():
        index = int(np.flatnonzero(~np.isfinite(samples))[0])
        raise AudioError(f"{source.name}: found {samples[index]} at sample {index}, expected finite samples")
    if len(samples) and (peak := float(np.abs(samples).max())) > _LOUDEST:
        raise AudioError(
            f"{source.name}: found samples up to {peak:.6g}, expected them within 1, full scale; a file of floating "
            "point numbers in units of 16-bit integers must be divided by 32768"
        )
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    if not len(samples):
        raise AudioError(f"{source.name}: found less than one sample at {SAMPLE_RATE} Hz, expected some sound")
    return np.ascontiguousarray(samples, dtype=np.float32)


def duration(source: AudioSource) -> float:
    """Length in seconds, as the container states it; nothing is decoded.

    :raises AudioError: as :func:`read_audio`, but for damage that only decoding shows.
    """
    with _open(source) as (file, length):
        return length / file.samplerate


def audio_key(source: AudioSource) -> str:
    """A text that stays the same as long as the sound does: path, size, time of change and range. Reads no content.

    :raises AudioError: the file is gone.
    """
    status = _check_file(source.name, source.path)
    path = os.path.abspath(source.path)
    return json.dumps([path, status.st_size, status.st_mtime_ns, source.kind, source.start, source.length])


@contextmanager
def _open(source: AudioSource) -> Iterator[tuple[soundfile.SoundFile, int]]:
    """Open at the first sample asked for; yields the file and how many samples to read."""
    with _open_bytes(source) as raw:
        try:
            file = soundfile.SoundFile(raw)
        except (soundfile.LibsndfileError, TypeError) as error:
            reason = f" ({error.error_string.rstrip('.')})" if isinstance(error, soundfile.LibsndfileError) else ""
            # TypeError: soundfile wants to be told the rate of a ".raw" file.
            raise AudioError(f"{source.name}: found no audio{reason}, expected wav, flac, mp3 or ogg") from None
        with file:
            yield file, _check_header(source, file, raw)


def _open_bytes(source: AudioSource) -> BinaryIO:
    status = _check_file(source.name, source.path)
    try:
        if source.kind != "zip":
            return open(source.path, "rb")
        assert source.length is not None
        _check_range(source.name, source.start, source.length, status.st_size)
        with open(source.path, "rb") as archive:
            archive.seek(source.start)
            return io.BytesIO(archive.read(source.length))
    except OSError as error:
        raise AudioError(f"{source.name}: cannot be read ({error.strerror}), expected a readable file") from None


def _check_header(source: AudioSource, file: soundfile.SoundFile, raw: BinaryIO) -> int:
    """Check what shows without decoding, seek to the first sample, and return how many samples to read."""
    if file.format not in _FORMATS:
        raise AudioError(f"{source.name}: found a file of format {file.format}, expected wav, flac, mp3 or ogg")
    if file.samplerate not in _RATES:
        raise AudioError(
            f"{source.name}: found a sample rate of {file.samplerate} Hz, expected {_RATES[0]} to {_RATES[-1]} Hz"
        )
    if file.frames <= 0:
        raise AudioError(f"{source.name}: found zero samples, expected some sound")
    if file.frames == _UNKNOWN_LENGTH:
        raise AudioError(f"{source.name}: found a header that states no length, expected a finished file")
    damage = find_damage(file, raw)
    if damage is not None:
        raise AudioError(f"{source.name}: found {damage}, expected a whole file")
    if source.kind != "segment":
        return file.frames
    assert source.length is not None
    if source.start + source.length > file.frames:
        raise AudioError(
            f"{source.name}: found {file.frames} samples, expected at least {source.start + source.length} for the "
            "segment"
        )
    file.seek(source.start)
    return source.length


def _decode(source: AudioSource, file: soundfile.SoundFile, length: int) -> npt.NDArray[np.float32]:
    """The next ``length`` samples, channels mixed: ``[length]`` at the file's own rate."""
    blocks = []
    missing = length
    power_of_channels = power_of_mean = 0.0
    try:
        # In blocks, so that a damaged header cannot ask for all memory at once.
        while missing > 0:
            wanted = min(missing, _BLOCK)
            block = file.read(wanted, dtype="float32", always_2d=True)
            # (N, C) -> (N)
            mean = block.mean(axis=1)
            blocks.append(mean)
            if file.channels > 1:
                power_of_channels += float(np.vdot(block, block)) / file.channels
                power_of_mean += float(np.vdot(mean, mean))
            missing -= len(block)
            # Behind a hole libsndfile would go on with sound from elsewhere, so the first short block is the end.
            if len(block) < wanted:
                break
    except soundfile.LibsndfileError as error:
        raise _cut_short(source, length - missing, length, error.error_string.rstrip(".")) from None
    if missing == length or missing > (MP3_SLACK if file.format == "MP3" else 0):
        raise _cut_short(source, length - missing, length, "the file ends early or is damaged")
    if power_of_channels > _SOUNDING * length and power_of_mean < _CANCELLED * power_of_channels:
        raise AudioError(
            f"{source.name}: found {file.channels} channels that cancel each other, so that their mean is silence, "
            "expected channels in phase; keep one of them"
        )
    return np.concatenate(blocks)


def _cut_short(source: AudioSource, found: int, expected: int, reason: str) -> AudioError:
    return AudioError(f"{source.name}: found {found} readable samples ({reason}), expected {expected} samples")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    # A name that is too long or holds a zero byte names no file either.
    except (OSError, ValueError):
        return None


def _check_file(name: str, path: Path) -> os.stat_result:
    status = _stat(path)
    if status is None:
        raise AudioError(f"{name}: found no such file at {path}, expected an audio file")
    if not stat.S_ISREG(status.st_mode):
        found = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise AudioError(f"{name}: found {found}, expected an audio file")
    return status


def _check_range(name: str, start: int, length: int, size: int) -> None:
    if start + length > size:
        raise AudioError(f"{name}: found an archive of {size} bytes, expected at least {start + length}")
