"""Writes sound in every kind that the tools at hand write, reads it, and tells in a table what came of it.

    python benchmarks/sound_kinds.py benchmarks/results/sound-kinds.md

The tools are libsndfile (soundfile), FFmpeg's libraries (PyAV, where it is installed), and `ffmpeg`, `sox` and `flac`
where they are on the path: files, and pipes, whose headers are written before the length is known. Damage and recorders
that were killed are made by changing bytes.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechllm_plugin.datasets.audio import SAMPLE_RATE, duration, read_audio, resolve
from speechllm_plugin.errors import UserError

SECONDS = 3.0
_SOUNDFILE = {
    "WAV": (8000, 16000, 44100, 48000), "WAVEX": (16000,), "RF64": (16000,), "W64": (16000,), "AIFF": (16000, 44100),
    "AU": (8000, 16000), "CAF": (16000, 44100), "FLAC": (8000, 16000, 44100, 96000), "NIST": (8000, 16000),
    "OGG": (8000, 16000, 48000), "MP3": (8000, 16000, 22050, 44100, 48000),
}  # fmt: skip
"""Containers, and the rates that each is tried at in every coding that it has."""
_PYAV = {
    "m4a": ("aac", "ipod", 44100), "mp4": ("aac", "mp4", 48000), "m4a, ALAC": ("alac", "ipod", 16000),
    "mp4 in fragments": ("aac", "mp4", 48000), "mov": ("pcm_s16le", "mov", 16000), "webm": ("libopus", "webm", 48000),
    "webm without a length": ("libopus", "webm", 48000), "mka": ("flac", "matroska", 16000),
    "aac": ("aac", "adts", 16000), "amr": ("libopencore_amrnb", "amr", 8000),
    "3gp": ("libopencore_amrnb", "3gp", 8000), "wma": ("wmav2", "asf", 44100), "flac in Ogg": ("flac", "ogg", 16000),
    "ac3": ("ac3", "ac3", 48000), "MPEG transport stream": ("aac", "mpegts", 48000), "mp2": ("mp2", "mp2", 44100),
    "mp3": ("libmp3lame", "mp3", 44100), "mp3 in wav": ("libmp3lame", "wav", 44100),
    "wav, ADPCM": ("adpcm_ima_wav", "wav", 16000), "opus": ("libopus", "ogg", 48000),
}  # fmt: skip
_OPTIONS = {
    "mp4 in fragments": {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    "webm without a length": {"live": "1"},
}  # fmt: skip
_BIT_RATES = {"libopencore_amrnb": 12200, "wmav2": 64000}
_COMMANDS = {
    "ffmpeg": {
        f"ffmpeg | {name}": ["ffmpeg", "-v", "error", "-i", "IN", *options.split(), "-"]
        for name, options in {
            "wav": "-f wav", "flac": "-f flac", "aiff": "-f aiff", "caf": "-f caf", "mp3": "-f mp3", "ogg": "-f ogg",
            "au": "-f au", "aac": "-f adts", "webm": "-c:a libopus -f webm", "w64": "-f w64",
        }.items()
    },
    "sox": {f"sox | {kind}": ["sox", "IN", "-t", kind, "-"] for kind in ("wav", "aiff", "au", "flac", "caf", "w64")},
    "flac": {"flac | flac": ["flac", "--silent", "--stdout", "IN"]},
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    kind: str
    tool: str
    path: Path
    seconds: float = SECONDS


def sound(rate: int) -> np.ndarray:
    """A tone that rises: no two places of it are alike."""
    times = np.arange(round(rate * SECONDS)) / rate
    return (0.3 * np.sin(2 * np.pi * (200 + 150 * times) * times)).astype(np.float32)


def by_soundfile(root: Path) -> Iterator[Case]:
    for format, rates in _SOUNDFILE.items():
        for subtype in soundfile.available_subtypes(format):
            for rate in rates:
                path = root / f"{format}-{subtype}-{rate}"
                try:
                    soundfile.write(path, sound(rate), rate, format=format, subtype=subtype)
                except (soundfile.LibsndfileError, ValueError):
                    continue  # not every coding has every rate
                yield Case(f"{format.lower()}, {subtype}, {rate} Hz", "libsndfile", path)


def by_pyav(root: Path) -> Iterator[Case]:
    try:
        import av
    except ImportError:
        return
    for kind, (codec, container, rate) in _PYAV.items():
        path = root / kind.replace(" ", "-")
        with av.open(str(path), "w", format=container, options=_OPTIONS.get(kind, {})) as file:
            stream: Any = file.add_stream(codec, rate=rate, layout="mono")
            if codec in _BIT_RATES:
                stream.bit_rate = _BIT_RATES[codec]
            frame = av.AudioFrame.from_ndarray(sound(rate)[None], format="fltp", layout="mono")
            frame.rate, frame.pts = rate, 0
            encoder = stream.codec_context
            cutter = av.AudioResampler(encoder.format, "mono", rate, frame_size=encoder.frame_size or 1024)
            for piece in [*cutter.resample(frame), *cutter.resample(None), None]:
                for packet in stream.encode(piece):
                    file.mux(packet)
        yield Case(f"{kind}, {codec}, {rate} Hz", "FFmpeg (PyAV)", path)


def by_commands(root: Path) -> Iterator[Case]:
    """Into pipes."""
    source = root / "source.wav"
    soundfile.write(source, sound(SAMPLE_RATE), SAMPLE_RATE)
    for tool, commands in _COMMANDS.items():
        if shutil.which(tool) is None:
            continue
        for kind, command in commands.items():
            words = [str(source) if word == "IN" else word for word in command]
            result = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if result.returncode == 0:
                path = root / kind.replace(" ", "-").replace("|", "to")
                path.write_bytes(result.stdout)
                yield Case(kind, tool, path)


def by_changes(root: Path) -> Iterator[Case]:
    def written(format: str, subtype: str | None = None) -> bytes:
        soundfile.write(root / "made", sound(SAMPLE_RATE), SAMPLE_RATE, format=format, subtype=subtype)
        return (root / "made").read_bytes()

    def case(kind: str, content: bytes, seconds: float = SECONDS) -> Case:
        path = root / kind.replace(" ", "-").replace("/", "-")
        path.write_bytes(content)
        return Case(kind, "bytes changed", path, seconds)

    wav, flac, mp3 = written("WAV"), written("FLAC"), written("MP3")
    ogg, aiff, caf = written("OGG", "VORBIS"), written("AIFF"), written("CAF", "PCM_16")
    size = len(wav) - 44
    for stated in (0, 3200, size + 8, size + 44, 1_000_000_000, 2_000_000_000, 0x7FFFFFFF, 0xFFFFFFFF):
        yield case(f"wav whose size is {stated}", wav[:40] + struct.pack("<I", stated) + wav[44:])
    yield case("wav behind a tag", b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + wav)
    yield case("flac without a length", flac[:21] + bytes((flac[21] & 0xF0, 0, 0, 0, 0)) + flac[26:])
    place = aiff.find(b"SSND") + 4
    yield case("aiff of a pipe", aiff[:place] + struct.pack(">I", 0x7F000008) + aiff[place + 4 :])
    place = caf.find(b"data") + 4
    yield case("caf of a pipe", caf[:place] + b"\xff" * 8 + caf[place + 8 :])
    yield case("flac and flac", flac + flac, 2 * SECONDS)
    yield case("Ogg and Ogg", ogg + ogg, 2 * SECONDS)
    yield case("mp3 and mp3", mp3 + mp3, 2 * SECONDS)
    yield case("mp3 without its tag", mp3[mp3.find(mp3[:2], 100) :])
    yield case("mp3 behind zeros", bytes(3000) + mp3)
    for kind, content in (("wav", wav), ("flac", flac), ("mp3", mp3), ("ogg", ogg), ("aiff", aiff), ("caf", caf)):
        yield case(f"{kind} cut short", content[: len(content) * 6 // 10])
    yield case("text", b"no sound. " * 100)
    yield case("raw samples", wav[44:])


def row(case: Case) -> list[str]:
    source = resolve(case.path.name, case.path.parent)
    try:
        found = read_audio(source)
        stated = f"{duration(source):.3f}"
    except UserError as error:
        return [case.kind, case.tool, "-", "-", "-", str(error).removeprefix(f"{case.path.name}: ").replace("|", "/")]
    expected = np.tile(sound(SAMPLE_RATE), round(case.seconds / SECONDS))
    length = 1 << (len(found) + len(expected)).bit_length()
    match = np.fft.irfft(np.fft.rfft(found, length) * np.conj(np.fft.rfft(expected, length)), length)
    alike = match.max() / (np.linalg.norm(found) * np.linalg.norm(expected))
    return [case.kind, case.tool, f"{len(found) / SAMPLE_RATE:.3f} of {case.seconds:g}", stated, f"{alike:.3f}", ""]


def main(arguments: list[str]) -> int:
    makers: tuple[Callable[[Path], Iterator[Case]], ...] = (by_soundfile, by_pyav, by_commands, by_changes)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(case) for maker in makers for case in maker(Path(folder))]
    lines = [["kind", "made by", "seconds read", "`duration`", "likeness", "message"], ["---"] * 6, *rows]
    tools = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("soundfile", "av"))
    missing = ", ".join(tool for tool in _COMMANDS if shutil.which(tool) is None)
    page = f"""# Kinds of sound that were tried

A rising tone of {SECONDS:g} s in {len(rows)} kinds, read to 16 kHz: seconds read, what `duration` tells without
decoding, the likeness to the source at its best shift (1 = the same), or the message. A codec's delay and the filling
of its last frame are part of what is read where nothing in the file tells them; between two mp3 in one file they shift
the second against the source. `duration` looks at both ends of a flac alone, and so does not see two of one length.
What was cut short, or is no sound, has to be an error.

{chr(10).join(f"| {' | '.join(line)} |" for line in lines)}

    python benchmarks/sound_kinds.py

{tools}{f"; not at hand: {missing}" if missing else ""}.
"""
    if arguments:
        Path(arguments[0]).write_text(page, encoding="utf-8")
    else:
        print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
