"""Writes a rising tone in every kind of sound that the tools at hand write."""

from __future__ import annotations

import configparser
import shlex
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechllm_plugin.datasets.audio import SAMPLE_RATE

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
COMMANDS = configparser.ConfigParser(delimiters=("=",), interpolation=None)
"""A section for each tool, and in it the arguments by kind."""
COMMANDS.optionxform = str
COMMANDS.read(Path(__file__).with_name("sound_commands.ini"), encoding="utf-8")
_BIT_RATES = {"libopencore_amrnb": 12200, "wmav2": 64000}


@dataclass(frozen=True)
class Case:
    kind: str
    tool: str
    path: Path | None
    """Nothing where the tool was built without this codec."""
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
    """Into files, and into pipes, where a tool cannot go back to write a length."""
    names = _sources(root)
    for tool in filter(shutil.which, COMMANDS.sections()):
        section = dict(COMMANDS[tool])
        command = section.pop("command")
        for number, (kind, arguments) in enumerate(section.items()):
            ending = arguments.rpartition("OUT")[2].partition(" ")[0] if "OUT" in arguments else ""
            path = root / f"{tool}-{number}{ending}"
            words = [names.get(word, word) for word in shlex.split(f"{command} {arguments}")]
            words = [str(path) if word == f"OUT{ending}" else word for word in words]
            result = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root)
            if result.returncode != 0:
                yield Case(kind.removesuffix(" *"), tool, None)
                continue
            if ending == "":
                path.write_bytes(result.stdout)
            yield Case(kind.removesuffix(" *"), tool, path)
            if kind.endswith(" *"):
                yield from _changed(kind.removesuffix(" *"), tool, path)


def _changed(kind: str, tool: str, path: Path) -> Iterator[Case]:
    content = path.read_bytes()
    for what, changed, seconds in (
        ("twice", content * 2, 2 * SECONDS), ("cut short", content[: len(content) * 6 // 10], SECONDS)
    ):  # fmt: skip
        other = path.with_name(f"{path.name}-{what.replace(' ', '-')}")
        other.write_bytes(changed)
        yield Case(f"{kind}, {what}", tool, other, seconds)


def _sources(root: Path) -> dict[str, str]:
    """What the words of a command stand for."""
    names = {}
    for name, rate, channels in (
        ("IN", SAMPLE_RATE, 1), ("IN8", 8000, 1), ("IN44", 44100, 2), ("IN48", 48000, 1), ("IN6", 48000, 6)
    ):  # fmt: skip
        path = root / f"{name}.wav"
        soundfile.write(path, np.stack([sound(rate)] * channels, axis=1), rate)
        names[name] = str(path)
    cover = root / "cover.png"
    cover.write_bytes(_picture())
    return {**names, "COVER": str(cover)}


def _picture() -> bytes:
    """A PNG of 16 by 16 black dots."""
    head = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(17 * 16))), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def by_changes(root: Path) -> Iterator[Case]:
    def written(format: str, subtype: str | None = None, rate: int = SAMPLE_RATE, channels: int = 1) -> bytes:
        samples = np.stack([sound(rate)] * channels, axis=1)
        soundfile.write(root / "made", samples, rate, format=format, subtype=subtype)
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
    for kind, content in (("flac", flac), ("Ogg", ogg), ("mp3", mp3), ("wav", wav), ("aiff", aiff)):
        yield case(f"{kind} and {kind}", content + content, 2 * SECONDS)
    for format in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU"):
        for what, rate, channels in (("stereo", SAMPLE_RATE, 2), ("at 44.1 kHz", 44100, 1)):
            yield case(
                f"{format.lower()}, and one {'in ' * (channels > 1)}{what}",
                written(format) + written(format, rate=rate, channels=channels),
                2 * SECONDS,
            )
    for format, place, sizes in (
        ("AIFF", b"SSND", struct.pack(">I", 3208)), ("CAF", b"data", struct.pack(">q", 3204)),
        ("AU", b".snd\0\0\0\x18", struct.pack(">I", 3200)),
    ):  # fmt: skip
        data = written(format, "PCM_16")
        begin = data.find(place) + len(place)
        yield case(f"{format.lower()} of a killed recorder", data[:begin] + sizes + data[begin + len(sizes) :])
    again = struct.pack("<4sI", b"data", size) + wav[44:]
    yield case("wav with a second chunk of samples", wav + again, 2 * SECONDS)
    yield case("mp3 without its tag", mp3[mp3.find(mp3[:2], 100) :])
    yield case("mp3 behind zeros", bytes(3000) + mp3)
    for kind, content in (("wav", wav), ("flac", flac), ("mp3", mp3), ("ogg", ogg), ("aiff", aiff), ("caf", caf)):
        yield case(f"{kind} cut short", content[: len(content) * 6 // 10])
    yield case("text", b"no sound. " * 100)
    yield case("raw samples", wav[44:])
