"""Writes clips and manifests to measure the reader on: lengths as in CoVoST 2, a file for each row."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from speechllm_plugin.datasets.manifest import frames_of

RATE = 16000
LONGEST = 12.0
_LINKS = 30_000
"""Most names of one file; file systems allow 32,000 or more."""
_WORDS = [
    "the", "river", "that", "we", "crossed", "in", "winter", "had", "been", "frozen", "for", "weeks", "and", "nobody",
    "remembered", "when", "the", "last", "boat", "left", "although", "everyone", "knew", "its", "name",
]  # fmt: skip
_VECTORS, _TOKENS = 12.5, (2.0, 4.5)
"""Vectors for each second of speech, and least and most tokens of the text for each second."""
_PROMPT = 20


def lengths(number: int) -> np.ndarray:
    """Lengths of clips in seconds, with a mean of 5.4 and at most `LONGEST`."""
    return np.minimum(LONGEST, np.random.default_rng(0).lognormal(1.6, 0.4, number))


def positions(seconds: np.ndarray) -> np.ndarray:
    """Positions of the LLM for clips of these lengths: prompt, speech at 12.5 vectors a second, and text."""
    tokens = np.random.default_rng(1).uniform(*_TOKENS, len(seconds))
    return np.round(_PROMPT + (_VECTORS + tokens) * seconds).astype(np.int64)


def write_clips(folder: Path, number: int) -> Path:
    """:returns: a manifest of clips in FLAC, each of which is a different noise with the rhythm of syllables."""
    (folder / "clips").mkdir(parents=True)
    generator = np.random.default_rng(2)
    seconds = lengths(number)
    for clip, length in enumerate(seconds):
        times = np.arange(round(RATE * length)) / RATE
        loudness = 0.55 + 0.45 * np.sin(2 * np.pi * 3.1 * times)
        sound = (0.1 * loudness * generator.standard_normal(len(times))).clip(-1, 1)
        soundfile.write(folder / "clips" / _name(clip), sound, RATE, subtype="PCM_16")
    return _write(folder / "clips.tsv", seconds)


def write_rows(folder: Path, number: int) -> Path:
    """:returns: a manifest of rows with a file each: names of a few files, whose lengths are whole eighths of a second.
    """
    (folder / "clips").mkdir(parents=True)
    seconds = np.maximum(0.125, np.round(8 * lengths(number)) / 8)
    sound = 0.1 * np.random.default_rng(3).standard_normal(round(RATE * LONGEST)).clip(-1, 1)
    links: dict[float, tuple[Path, int]] = {}
    for clip, length in enumerate(seconds.tolist()):
        path = folder / "clips" / _name(clip)
        first, count = links.get(length, (path, _LINKS))
        if count == _LINKS:
            soundfile.write(path, sound[: round(RATE * length)], RATE, subtype="PCM_16")
            links[length] = path, 1
        else:
            os.link(first, path)
            links[length] = first, count + 1
    return _write(folder / "rows.tsv", seconds)


def _name(clip: int) -> str:
    return f"common_voice_en_{clip + 10_000_000}.flac"


def _write(path: Path, seconds: np.ndarray) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.write("id\taudio\tn_frames\ttgt_text\tsrc_text\tspeaker\tsrc_lang\ttgt_lang\n")
        file.writelines(_lines(seconds))
    return path


def _lines(seconds: np.ndarray) -> Iterator[str]:
    for clip, length in enumerate(seconds.tolist()):
        start, words = clip % len(_WORDS), max(2, round(2 * length))
        text = " ".join((_WORDS * 2)[start : start + words]).capitalize()
        name = _name(clip)
        yield (
            f"{name[:-5]}\tclips/{name}\t{frames_of(length)}\tÜber {text.lower()}.\t{text}.\tspeaker_{clip % 5000}"
            "\ten\tde\n"
        )
