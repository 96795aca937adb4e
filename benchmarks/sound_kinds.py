"""Writes sound in every kind that the tools at hand write, reads it, and tells in a table what came of it.

    python benchmarks/sound_kinds.py benchmarks/results/sound-kinds.md

The tools are libsndfile (soundfile), FFmpeg's libraries (PyAV, where it is installed), and those of
`sound_commands.ini` that are on the path: files, and pipes, whose headers are written before the length is known.
Damage and recorders that were killed are made by changing bytes. Where `ffmpeg` is at hand, it decodes each file, too.
"""

from __future__ import annotations

import importlib.metadata
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from sound_makers import COMMANDS, SECONDS, Case, by_changes, by_commands, by_pyav, by_soundfile, sound

from speechllm_plugin.datasets.audio import SAMPLE_RATE, duration, read_audio, resolve
from speechllm_plugin.datasets.sound.opening import open_sound
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.byte_range import ByteRange

_HEAD = (
    "kind", "made by", "seconds read", "`duration`", "likeness", "ffmpeg: seconds, ms later", "segments", "message"
)  # fmt: skip
_VERSION = re.compile(r"\d+(?:\.\d+)+")
_RING = 400
"""Samples at the ends of a segment, in which a resampler has other neighbours than in the whole."""


def row(case: Case) -> list[str]:
    if case.path is None:
        return [case.kind, case.tool, *["-"] * 5, "not written by this build of the tool"]
    source = resolve(case.path.name, case.path.parent)
    peer = by_ffmpeg(case.path)
    try:
        found = read_audio(source)
        stated = f"{duration(source):.3f}"
    except UserError as error:
        by_peer = "-" if peer is None else f"{len(peer) / SAMPLE_RATE:.3f}"
        message = str(error).removeprefix(f"{case.path.name}: ").replace("|", "/")
        return [case.kind, case.tool, "-", "-", "-", by_peer, "-", message]
    expected = np.tile(sound(SAMPLE_RATE), round(case.seconds / SECONDS))
    seconds = f"{len(found) / SAMPLE_RATE:.3f} of {case.seconds:g}"
    by_peer = "-" if peer is None else f"{len(peer) / SAMPLE_RATE:.3f}, {_alike(peer, found)[1]:+.1f}"
    likeness = f"{_alike(found, expected)[0]:.3f}"
    return [case.kind, case.tool, seconds, stated, likeness, by_peer, _segments(case.path, found), ""]


def by_ffmpeg(file: Path) -> np.ndarray | None:
    """What the command `ffmpeg` decodes: `[samples]` at 16 kHz, the mean of the channels."""
    if shutil.which("ffmpeg") is None:
        return None
    path = file.parent / "peer.wav"
    path.unlink(missing_ok=True)
    command = f"ffmpeg -v quiet -nostdin -y -i {file} -map 0:a:0 -c:a pcm_f32le {path}"
    subprocess.run(command.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        samples, rate = soundfile.read(path, always_2d=True)
    except soundfile.LibsndfileError:
        return None
    return soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE) if len(samples) else None


def _alike(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The likeness at the best shift (1 = the same), and by how many milliseconds `found` comes later."""
    length = 1 << (len(found) + len(expected)).bit_length()
    match = np.fft.irfft(np.fft.rfft(found, length) * np.conj(np.fft.rfft(expected, length)), length)
    place = int(match.argmax())
    likeness = match[place] / (np.linalg.norm(found) * np.linalg.norm(expected) + 1e-12)
    return float(likeness), 1000 * (place if place < length // 2 else place - length) / SAMPLE_RATE


def _segments(path: Path, whole: np.ndarray) -> str:
    """Half a second at the start, in the middle and at the end, beside the same place of the whole: the largest
    difference, or the message."""
    with path.open("rb") as file:
        opened = open_sound(ByteRange(file.fileno(), 0, path.stat().st_size), path.name, path.name)
        rate, frames = opened.rate, opened.frames
        opened.close()
    # The end of what was read: a length that packets tell may be a little longer.
    end = min(frames, len(whole) * rate // SAMPLE_RATE)
    # Where a sample lies at both rates.
    step = rate // math.gcd(rate, SAMPLE_RATE)
    worst = 0.0
    for start in (0, end // 2, end - rate // 2):
        start -= start % step
        name = f"{path.name}:{start}:{min(rate // 2, end - start)}"
        try:
            part = read_audio(resolve(name, path.parent))
        except UserError as error:
            return str(error).removeprefix(f"{name}: ")
        place = start * SAMPLE_RATE // rate
        ring = 0 if rate == SAMPLE_RATE else _RING
        part = part[ring : min(len(part), len(whole) - place) - ring]
        worst = max(worst, float(np.abs(part - whole[place + ring : place + ring + len(part)]).max()))
    return f"{worst:.0e}" if worst else "0"


def _versions() -> Iterator[str]:
    for package in ("soundfile", "av"):
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"no {package}"
    for tool in COMMANDS.sections():
        if shutil.which(tool):
            option = "-version" if tool == "ffmpeg" else "--version"
            result = subprocess.run([tool, option], capture_output=True, text=True)
            match = _VERSION.search(result.stdout + result.stderr)
            yield f"{tool} {match[0]}" if match else tool


def main(arguments: list[str]) -> int:
    makers: tuple[Callable[[Path], Iterator[Case]], ...] = (by_soundfile, by_pyav, by_commands, by_changes)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(case) for maker in makers for case in maker(Path(folder))]
    lines = [list(_HEAD), ["---"] * len(_HEAD), *rows]
    missing = ", ".join(tool for tool in COMMANDS.sections() if shutil.which(tool) is None)
    page = f"""# Kinds of sound that were tried

A rising tone of {SECONDS:g} s in {len(rows)} kinds, read to 16 kHz: seconds read, what `duration` tells without
decoding, the likeness to the source at its best shift (1 = the same), or the message. A codec's delay and the filling
of its last frame are part of what is read where nothing in the file tells them; between two mp3 in one file they shift
the second against the source. `duration` looks at both ends of a flac alone: two of one length that are mostly silent
seem to be one. What was cut short, or is no sound, has to be an error. The column of `ffmpeg` is what that command
decodes, and by how much later it comes; a segment is half a second at the start, in the middle and at the end beside
the same place of the whole (the largest difference). Some oddities are the tools' own: sox repeats the header of a caf
in a pipe, and `ffmpeg` reads one of two files in a wav, aiff, caf, w64, m4a, flv, tta or wma, and noise from NMS ADPCM.

{chr(10).join(f"| {' | '.join(line)} |" for line in lines)}

    python benchmarks/sound_kinds.py

{", ".join(_versions())}{f"; not at hand: {missing}" if missing else ""}.
"""
    if arguments:
        Path(arguments[0]).write_text(page, encoding="utf-8")
    else:
        print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
