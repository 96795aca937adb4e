"""Finding audio files that were cut short or damaged, which decoders play to the break without a word."""

from __future__ import annotations

import re
from typing import BinaryIO

import soundfile

from speechllm_plugin.datasets.mp3 import count_frames

# libsndfile notes in its log where a chunk claims more bytes than the file has. The log is the same for all formats
# that state a size; only the chunk with the samples counts, since sloppy sizes elsewhere are common and harmless.
_STATED_SIZE = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
# A program that writes into a pipe cannot know the size and states the largest (or nearly the largest) one.
_SIZE_OF_STREAM = 0x7FFF_0000
_SPHERE_COUNT = re.compile(rb"^sample_count -i (\d+)", re.MULTILINE)
_SPHERE_HEADER = 1024
_OGG_PAGE_MAX = 27 + 255 + 255 * 255
# The encoder's delay and padding, which the decoder may or may not trim, are at most this many frames.
_MP3_FRAMES_OF_SLACK = 4

MP3_SLACK = _MP3_FRAMES_OF_SLACK * 1152
"""Samples that the stated length of an MP3 file may be off without anything being wrong."""


def find_damage(file: soundfile.SoundFile, raw: BinaryIO) -> str | None:
    """What is wrong with the file, in words that follow "found"; ``None`` where nothing shows without decoding.

    :param raw: the bytes that ``file`` was opened on; its position is put back.
    """
    position = raw.tell()
    try:
        if file.format == "OGG":
            return _ogg_damage(raw)
        if file.format == "MP3":
            return _mp3_damage(file, raw)
        if file.format == "NIST":
            return _sphere_damage(file, raw)
        return _stated_size_damage(file)
    finally:
        raw.seek(position)


def _stated_size_damage(file: soundfile.SoundFile) -> str | None:
    for match in _STATED_SIZE.finditer(file.extra_info):
        stated, present = int(match[1]), int(match[2])
        if present < stated < _SIZE_OF_STREAM:
            return f"{present} bytes of samples where its header states {stated}"
    return None


def _sphere_damage(file: soundfile.SoundFile, raw: BinaryIO) -> str | None:
    raw.seek(0)
    match = _SPHERE_COUNT.search(raw.read(_SPHERE_HEADER))
    if match is not None and file.frames < int(match[1]):
        return f"{file.frames} samples where its header states {int(match[1])}"
    return None


def _ogg_damage(raw: BinaryIO) -> str | None:
    """Whether the last page is whole."""
    size = raw.seek(0, 2)
    raw.seek(max(0, size - _OGG_PAGE_MAX))
    tail = raw.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return "no page at the end of the Ogg stream"
    segments = tail[page + 27 : page + 27 + tail[page + 26]] if page + 26 < len(tail) else b""
    if page + 27 + len(segments) + sum(segments) > len(tail) or not segments:
        return "an incomplete page at the end of the Ogg stream"
    return None


def _mp3_damage(file: soundfile.SoundFile, raw: BinaryIO) -> str | None:
    raw.seek(0)
    frames = count_frames(raw.read())
    if frames is None:
        return None
    if frames.lost_at is not None:
        return f"bytes that are no MP3 frame at byte {frames.lost_at}"
    if abs(frames.samples - file.frames) > _MP3_FRAMES_OF_SLACK * frames.samples_per_frame:
        return (
            f"MP3 frames for {frames.samples / file.samplerate:.2f} s where its header states "
            f"{file.frames / file.samplerate:.2f} s (if it plays whole, rewriting it with `ffmpeg -c copy` mends it)"
        )
    return None
