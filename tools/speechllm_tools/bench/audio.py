"""Measures speed and memory of reading sound, beside soundfile and PyAV alone, which give the same: one channel at 16
kHz."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_tools.bench.audio_readers import SEGMENT_SECONDS
from speechllm_tools.bench.report import describe_machine

FILES: Mapping[str, tuple[str, str | None, int, int]] = {
    "wav": ("WAV", "PCM_16", 16000, 1),
    "wav, 44.1 kHz stereo": ("WAV", "PCM_16", 44100, 2),
    "flac": ("FLAC", "PCM_16", 16000, 1),
    "flac, 44.1 kHz stereo": ("FLAC", "PCM_16", 44100, 2),
    "mp3": ("MP3", None, 16000, 1),
    "mp3, 44.1 kHz stereo": ("MP3", None, 44100, 2),
    "Ogg Vorbis": ("OGG", "VORBIS", 16000, 1),
    "Ogg Opus": ("OGG", "OPUS", 16000, 1),
}
"""Format, coding, rate and channels of each row of the table."""
READER = "speechllm_tools.bench.audio_readers"
READERS = ("speechllm", "soundfile", "PyAV")
_SEGMENTS = 20
_MINUTES_OF_TALK = 20


@dataclass(frozen=True)
class Figures:
    seconds: float
    """Seconds of the fastest of several readings."""
    mebibytes: float
    """Growth of the process's memory, in MiB."""


def run(options: argparse.Namespace, *, report: Callable[[str], None]) -> int:
    if unknown := [name for name in options.only or () if name not in FILES]:
        raise UserError(f"--only: {unknown[0]!r} found, one of {', '.join(map(repr, FILES))} expected")
    readers = [name for name in READERS if name != "PyAV" or importlib.util.find_spec("av")]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows: list[tuple[str, list[Figures | None]]] = []
        for name in options.only or FILES:
            format, subtype, rate, channels = FILES[name]
            report(f"audio: {name} ...")
            sound = _speech(options.seconds, rate, channels)
            soundfile.write(root / "clip", sound, rate, format=format, subtype=subtype)
            rows.append((name, [_measure(root / "clip", reader, options.repeats) for reader in readers]))
        report(f"audio: {options.minutes} minutes, and segments of a talk ...")
        long = [(kind, _measure(_long(root, kind, options.minutes), "stream", 1)) for kind in ("WAV", "FLAC", "MP3")]
        segments = _measure_segments(_long(root, "MP3", _MINUTES_OF_TALK))
    page = _page(rows, readers, long, segments, options)
    print(page)
    if options.output is not None:
        write_text_atomically(options.output, page)
    return 0


def _speech(seconds: float, rate: int, channels: int) -> np.ndarray:
    """Noise whose level rises and falls like syllables, slightly different in each channel."""
    rng = np.random.default_rng(0)
    times = np.arange(round(seconds * rate))[:, None] / rate
    loudness = 0.55 + 0.45 * np.sin(2 * np.pi * 3.1 * times)
    noise = rng.standard_normal((len(times), 1)) + 0.3 * rng.standard_normal((len(times), channels))
    return (0.15 * loudness * noise).clip(-1, 1).astype(np.float32)


def _long(root: Path, format: str, minutes: int) -> Path:
    """A long file that repeats one minute."""
    minute = _speech(60, 16000, 1)
    path = root / f"{minutes}.{format.lower()}"
    if format == "MP3":
        # Encoding an hour takes a minute, so the frames of one minute are repeated instead.
        soundfile.write(path, minute, 16000, format=format, bitrate_mode="VARIABLE", compression_level=0.5)
        path.write_bytes(path.read_bytes() * minutes)
        return path
    with soundfile.SoundFile(path, "w", 16000, 1, format=format) as file:
        for _ in range(minutes):
            file.write(minute)
    return path


def _measure(path: Path, reader: str, repeats: int) -> Figures | None:
    """Measures in a process of its own, for its memory; `None` if the reader cannot read the file."""
    command = [sys.executable, "-m", READER, str(path), reader, str(repeats)]
    result = subprocess.run(command, capture_output=True, text=True)
    return Figures(**json.loads(result.stdout)) if result.returncode == 0 else None


def _measure_segments(path: Path) -> tuple[float, float]:
    """Seconds for the first segment of a file, in which it is walked over, and the median of further ones."""
    command = [sys.executable, "-m", READER, str(path), "segments", str(_SEGMENTS)]
    first, others = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return float(first), float(others)


def _page(
    rows: Sequence[tuple[str, Sequence[Figures | None]]],
    readers: Sequence[str],
    long: Sequence[tuple[str, Figures | None]],
    segments: tuple[float, float],
    options: argparse.Namespace,
) -> str:
    machine: Mapping[str, Any] = describe_machine("cpu")
    lines = [["file", *(f"{name}: times real time, MiB" for name in readers), "time beside soundfile"]]
    lines.append(["---"] * len(lines[0]))
    for name, figures in rows:
        ours, peer = figures[0], figures[1]
        ratio = f"{ours.seconds / peer.seconds:.2f}" if ours and peer else "-"
        lines.append([name, *(_cell(figure, options.seconds) for figure in figures), ratio])
    streams = [f"- {kind.lower()}: {_cell(figures, 60 * options.minutes)}" for kind, figures in long]
    versions = ", ".join(f"{name} {_version(name)}" for name in ("soundfile", "soxr", "av", "numpy"))
    command = ["speechllm", "bench", "audio", "--seconds", f"{options.seconds:g}", "--repeats", str(options.repeats)]
    command += ["--minutes", str(options.minutes), *(["--only", *options.only] if options.only else [])]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"""# Reading sound

Clips of {options.seconds:g} s, decoded, mixed to one channel and resampled to 16 kHz: how many times faster than
they play (by CPU time, the fastest of {options.repeats}), and by how many MiB the process grew. `soundfile` and
`PyAV` read the whole clip, mix with numpy and resample with soxr.

{table}

{options.minutes} minutes at 16 kHz, as a stream of blocks: times real time, MiB.

{chr(10).join(streams)}

Segments of {SEGMENT_SECONDS:g} s of an mp3 of {_MINUTES_OF_TALK} minutes: the first {1000 * segments[0]:.1f} ms, each
further one {1000 * segments[1]:.1f} ms (median of {_SEGMENTS}).

    {shlex.join(command)}

{machine["cpu"]}, {machine["threads"]} threads, {versions}.
"""


def _cell(figures: Figures | None, seconds: float) -> str:
    return "-" if figures is None else f"{seconds / figures.seconds:,.0f}, {figures.mebibytes:.0f}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
