"""Sound from disk: one channel, 16 kHz, float32, or one clear line that says why not.

A manifest names sound in one of three forms:

``path``                      a file, absolute or relative to the audio root
``archive.zip:offset:length``  the bytes of a stored (uncompressed) zip entry, itself a file of any format below; of an
                              entry of ``archive.tar``, too
``path:start:length``         a segment of a longer file, in samples at that file's own rate

A file whose own name looks like one of the last two forms is read as that file. ``path`` may be a URL that fsspec
knows, such as ``s3://bucket/talk.wav``: see :mod:`speechllm_plugin.files.remote`. The bytes of a file, not its name,
tell its format. libsndfile reads wav, flac, mp3, ogg (Vorbis, Opus), aiff, au, caf, w64, NIST SPHERE and bare GSM;
FFmpeg reads m4a, mp4, webm, aac, amr, wma, flac and Speex in Ogg and others, where PyAV is installed.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import soxr

from speechllm_plugin.datasets.sound.api import Sound, SoundError
from speechllm_plugin.datasets.sound.float_sound import LOUDEST
from speechllm_plugin.datasets.sound.mixing import Mixer
from speechllm_plugin.datasets.sound.notes import tell
from speechllm_plugin.datasets.sound.opening import open_sound
from speechllm_plugin.errors import ClipError
from speechllm_plugin.files.byte_range import ByteRange
from speechllm_plugin.files.remote import Location, RemoteBytes, RemoteError, RemoteFile, is_remote, under

SAMPLE_RATE = 16000
"""Samples per second of everything that :func:`read_audio` returns."""

_ARCHIVES = (".zip", ".tar")
_RATES = range(4000, 192_001)
_RANGE = re.compile(r"(?P<path>.+):(?P<start>[0-9]+):(?P<length>[0-9]+)", re.DOTALL)
# More samples than any file holds.
_ALL = 1 << 62
# A header may state a wrong length: more room is made when more samples come.
_HOUR = 3600 * SAMPLE_RATE


class AudioError(ClipError):
    """Sound that cannot be used; the message is one line that begins with the path as the user gave it."""


@dataclass(frozen=True)
class AudioSource:
    """Where one utterance's sound lies; made by :func:`resolve`."""

    name: str
    """What the user wrote, for messages."""

    path: Location
    """The file that holds the bytes."""

    kind: Literal["file", "zip", "segment"]
    """``zip`` stands for any archive: keys of feature caches have the word in them."""

    start: int
    """First byte (``zip``) or first sample (``segment``); 0 for a ``file``."""

    length: int | None
    """Number of bytes (``zip``) or samples (``segment``); ``None`` for a ``file``, which is read to its end."""

    channel: int | None = None
    """The one channel to read, counted from 1; ``None`` = the mean of all."""

    scales_floats: bool = True
    """Whether floating point numbers in units of integers are divided by their full scale; otherwise they are an
    error."""


def resolve(audio: str, root: Location, channel: int | None = None, *, scales_floats: bool = True) -> AudioSource:
    """Find the file behind a manifest's ``audio`` field. Only names and sizes are looked at, and nothing is opened; a
    file at a URL is looked for when it is read.

    :param root: folder that relative paths start from.
    :param channel: see :class:`AudioSource`; whether the file has it shows when it is read.
    :param scales_floats: see :class:`AudioSource`.
    :raises AudioError: there is no such file, it is no regular file, or a range is empty or beyond an archive's end.
    """
    if isinstance(root, RemoteFile) or is_remote(audio):
        return _resolve_remote(audio, root, channel, scales_floats)
    whole = root / audio
    if _stat(whole) is None and (match := _RANGE.fullmatch(audio)):
        path = root / match["path"]
        size, _ = _check_file(audio, path)
        source = _range_of(audio, path, match, channel, scales_floats)
        if source.kind == "zip":
            _check_range(source, size)
        return source
    _check_file(audio, whole)
    return AudioSource(audio, whole, "file", 0, None, channel, scales_floats)


def _resolve_remote(audio: str, root: Location, channel: int | None, scales_floats: bool) -> AudioSource:
    match = _RANGE.fullmatch(audio)
    path = under(root, match["path"] if match else audio)
    if isinstance(path, Path):
        return resolve(audio, Path(), channel, scales_floats=scales_floats)
    if match:
        return _range_of(audio, path, match, channel, scales_floats)
    return AudioSource(audio, path, "file", 0, None, channel, scales_floats)


def _range_of(
    audio: str, path: Location, match: re.Match[str], channel: int | None, scales_floats: bool
) -> AudioSource:
    start, length = int(match["start"]), int(match["length"])
    if length == 0:
        raise AudioError(f"{audio}: found a range of length 0, expected at least 1")
    kind: Literal["zip", "segment"] = "zip" if path.suffix.lower() in _ARCHIVES else "segment"
    return AudioSource(audio, path, kind, start, length, channel, scales_floats)


def read_audio(source: AudioSource, check: Callable[[float], object] | None = None) -> npt.NDArray[np.float32]:
    """Decode to ``[samples]``, float32, at 16 kHz: channels mixed by their mean, or one of them, then resampled (soxr,
    HQ).

    :param check: is called with the seconds before anything is decoded; an error that it raises ends the reading.
    :raises AudioError: not readable, not audio, empty, cut short, damaged, non-finite, far beyond full scale, at a
        rate outside 4 to 192 kHz, shorter than the segment asks for, without the channel, or of channels whose mean is
        silence.
    """
    samples = np.empty(0, dtype=np.float32)
    found = 0
    for block, expected in _read(source, check):
        if found + len(block) > len(samples):
            longer = np.empty(max(min(expected, _HOUR), found + len(block), 2 * found), dtype=np.float32)
            longer[:found] = samples[:found]
            samples = longer
        samples[found : found + len(block)] = block
        found += len(block)
    return samples[:found]


def stream_audio(
    source: AudioSource, check: Callable[[float], object] | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """Reads the samples of :func:`read_audio` in blocks, so that memory does not grow with the length.

    :raises AudioError: as :func:`read_audio`; the samples before a damage have been yielded by then.
    """
    for block, _ in _read(source, check):
        yield block.copy()


def _read(
    source: AudioSource, check: Callable[[float], object] | None
) -> Iterator[tuple[npt.NDArray[np.float32], int]]:
    """Blocks, each valid until the next is asked for, and about how many samples all blocks have together."""
    with _open(source) as (sound, start, length):
        if check is not None:
            check(length / sound.rate)
        expected = math.ceil(length * SAMPLE_RATE / sound.rate)
        for block in _decode(source, sound, start, length):
            yield block, expected


def duration(source: AudioSource) -> float:
    """Length in seconds, as the container states it or by a count of its packets; nothing is decoded.

    :raises AudioError: as :func:`read_audio`, but for damage that only decoding shows.
    """
    with _open(source) as (sound, _, length):
        return length / sound.rate


def sample_rate(source: AudioSource) -> int:
    """Samples per second of the file itself, in which manifests give its segments.

    :raises AudioError: as :func:`duration`.
    """
    with _open(source) as (sound, _, _):
        return sound.rate


def count_channels(source: AudioSource) -> int:
    """Channels of the file.

    :raises AudioError: as :func:`duration`.
    """
    with _open(source) as (sound, _, _):
        return sound.channels


def audio_key(source: AudioSource) -> str:
    """A text that stays the same as long as the sound does: path, size, time of change and range. Reads no content.

    :raises AudioError: the file is gone.
    """
    size, stamp = _check_file(source.name, source.path)
    path = source.path.url if isinstance(source.path, RemoteFile) else os.path.abspath(source.path)
    parts = [path, size, stamp, source.kind, source.start, source.length]
    return json.dumps(parts if source.channel is None else [*parts, source.channel])


@contextmanager
def _open(source: AudioSource) -> Iterator[tuple[Sound, int, int]]:
    """Yields the opened file, the first sample asked for and how many.

    :raises AudioError: the sound is wrong, here or in the body of the `with` statement.
    """
    size, stamp = _check_file(source.name, source.path)
    if source.kind == "zip":
        _check_range(source, size)
    sound: Sound | None = None
    with _bytes(source, size) as data:
        try:
            # A fault of a file is reported once, not for each of its segments.
            file = source.name.rsplit(":", 2)[0] if source.kind == "segment" else source.name
            sound = open_sound(data, file, f"{source.path} {size} {stamp}", scales_floats=source.scales_floats)
            yield sound, *_range(source, sound)
        except SoundError as error:
            # libsndfile passes no errors on: it takes a failed request for the end of the file.
            failed = data.failure if isinstance(data, RemoteBytes) else None
            raise AudioError(f"{source.name}: {error}") if failed is None else _unreadable(source, failed) from None
        except OSError as error:
            raise _unreadable(source, error) from None
        finally:
            if sound is not None:
                sound.close()


@contextmanager
def _bytes(source: AudioSource, size: int) -> Iterator[ByteRange]:
    """Opens the bytes of a file, or of an entry of an archive."""
    start, stop = 0, size
    if source.kind == "zip":
        assert source.length is not None
        start, stop = source.start, source.start + source.length
    if isinstance(source.path, RemoteFile):
        try:
            data = RemoteBytes.of(source.path, start, stop)
        except OSError as error:
            raise _unreadable(source, error) from None
        yield data
        return
    try:
        descriptor = os.open(source.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise _unreadable(source, error) from None
    try:
        yield ByteRange(descriptor, start, stop)
    finally:
        os.close(descriptor)


def stored_bytes(source: AudioSource) -> bytes:
    """The bytes of a file or of an entry of an archive, as they are.

    :raises AudioError: they cannot be read.
    """
    size, _ = _check_file(source.name, source.path)
    with _bytes(source, size) as data:
        try:
            return data.read(0, data.size)
        except OSError as error:
            raise _unreadable(source, error) from None


def _unreadable(source: AudioSource, error: OSError) -> AudioError:
    return AudioError(f"{source.name}: cannot be read ({error.strerror or error}), expected a readable file")


def _range(source: AudioSource, sound: Sound) -> tuple[int, int]:
    """Checks everything that shows without decoding; gives the first sample and how many to read."""
    if sound.rate not in _RATES:
        raise AudioError(
            f"{source.name}: found a sample rate of {sound.rate} Hz, expected {_RATES[0]} to {_RATES[-1]} Hz"
        )
    if sound.frames <= 0:
        raise AudioError(f"{source.name}: found zero samples, expected some sound")
    if source.kind != "segment":
        return 0, sound.frames
    assert source.length is not None
    if source.start + source.length > sound.frames:
        raise AudioError(
            f"{source.name}: found {sound.frames} samples, expected at least {source.start + source.length} for the "
            "segment"
        )
    return source.start, source.length


def _decode(source: AudioSource, sound: Sound, start: int, length: int) -> Iterator[npt.NDArray[np.float32]]:
    """Blocks ``[n]`` at 16 kHz.

    :raises SoundError: it cannot be decoded, or not used.
    """
    mixer = Mixer(sound.channels, source.channel)
    resampler = None
    if sound.rate != SAMPLE_RATE:
        resampler = soxr.ResampleStream(sound.rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    is_whole = source.kind != "segment"
    found = given = 0
    for block in sound.blocks(start, _ALL if is_whole and sound.is_estimate else length):
        mono = mixer.mix(block)
        _check_samples(mono, found)
        found += len(block)
        if resampler is not None:
            mono = resampler.resample_chunk(mono)
        if len(mono):
            given += len(mono)
            yield mono
    if found == 0 or length - found > (sound.slack if is_whole else 0):
        raise SoundError(
            f"found {found} readable samples (the file ends early or is damaged), expected {length} samples"
        )
    mixer.check()
    if (difference := mixer.difference()) is not None:
        tell("channels", source.name, difference)
    if resampler is not None:
        rest = resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        if len(rest):
            given += len(rest)
            yield rest
    if given == 0:
        raise SoundError(f"found less than one sample at {SAMPLE_RATE} Hz, expected some sound")


def _check_samples(samples: npt.NDArray[np.float32], before: int) -> None:
    """
    :raises SoundError: non-finite, or far beyond full scale.
    """
    # True for NaN as well: a comparison with it is never true.
    peak = float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))
    if peak <= LOUDEST:
        return
    if not np.isfinite(samples).all():
        index = int(np.flatnonzero(~np.isfinite(samples))[0])
        raise SoundError(f"found {samples[index]} at sample {before + index}, expected finite samples")
    raise SoundError(f"found samples up to {peak:.6g}, expected them within 1, full scale")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    # A name that is too long or holds a zero byte names no file either.
    except (OSError, ValueError):
        return None


def _check_file(name: str, path: Location) -> tuple[int, int | str]:
    """Size of a file in bytes, and a mark that changes whenever the file does."""
    if isinstance(path, RemoteFile):
        return _check_remote(name, path)
    status = _stat(path)
    if status is None:
        raise AudioError(f"{name}: found no such file at {path}, expected an audio file")
    if not stat.S_ISREG(status.st_mode):
        found = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise AudioError(f"{name}: found {found}, expected an audio file")
    return status.st_size, status.st_mtime_ns


def _check_remote(name: str, file: RemoteFile) -> tuple[int, str]:
    try:
        status = file.status()
    except RemoteError as error:
        raise AudioError(f"{name}: {file} cannot be read ({error}), expected a readable file") from None
    if status is None:
        raise AudioError(f"{name}: found no such file at {file}, expected an audio file")
    if not status.is_file:
        raise AudioError(f"{name}: found a directory, expected an audio file")
    return status.size, status.stamp


def _check_range(source: AudioSource, size: int) -> None:
    """Checks the range of an entry of an archive."""
    assert source.length is not None
    if source.start + source.length > size:
        raise AudioError(
            f"{source.name}: found an archive of {size} bytes, expected at least {source.start + source.length}"
        )
