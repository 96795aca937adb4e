"""Reads one file by one reader and prints what that took, as JSON: `python -m speechllm_tools.bench.audio_readers`."""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from speechllm_plugin.datasets.audio import SAMPLE_RATE, duration, read_audio, resolve, stream_audio

SEGMENT_SECONDS = 3.0


def main(arguments: Sequence[str]) -> int:
    path, reader, count = Path(arguments[0]), arguments[1], int(arguments[2])
    if reader == "segments":
        print(json.dumps(_time_segments(path, count)))
        return 0
    read = _READERS[reader]
    before = _peak()
    seconds = min(_time_anew(path, read) for _ in range(count))
    print(json.dumps({"seconds": seconds, "mebibytes": _peak() - before}))
    return 0


def _time_anew(path: Path, read: Callable[[Path], None]) -> float:
    # A new modification time, so that no reader finds the file in its own cache.
    os.utime(path)
    return _time(lambda: read(path))


def _ours(path: Path) -> None:
    read_audio(resolve(str(path), Path()))


def _stream(path: Path) -> None:
    for _ in stream_audio(resolve(str(path), Path())):
        pass


def _soundfile(path: Path) -> None:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    _resample(samples.mean(axis=1), rate)


def _pyav(path: Path) -> None:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        frames = [part.to_ndarray() for frame in container.decode(stream) for part in resampler.resample(frame)]
        _resample(np.concatenate(frames, axis=1).mean(axis=0), stream.rate)


def _resample(samples: np.ndarray, rate: int) -> None:
    if rate != SAMPLE_RATE:
        soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")


_READERS: dict[str, Callable[[Path], None]] = {
    "speechllm": _ours, "stream": _stream, "soundfile": _soundfile, "PyAV": _pyav
}  # fmt: skip


def _time_segments(path: Path, count: int) -> tuple[float, float]:
    """Seconds for the first segment, and the median of further ones, at places drawn at random."""
    rate = soundfile.info(path).samplerate
    length = round(SEGMENT_SECONDS * rate)
    samples = round(duration(resolve(str(path), Path())) * rate)
    os.utime(path)  # so that finding the place is measured, too
    places = np.random.default_rng(0).integers(0, samples - length, count + 1)
    times = [_time(lambda place=place: _ours(Path(f"{path}:{place}:{length}"))) for place in places]  # type: ignore[misc]
    return times[0], float(np.median(times[1:]))


def _time(act: Callable[[], None]) -> float:
    """CPU seconds, which other work on the machine hardly changes."""
    begin = time.process_time()
    act()
    return time.process_time() - begin


def _peak() -> float:
    """Peak memory of this process in MiB. On Linux, `getrusage` would include the process that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
