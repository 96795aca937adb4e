#!/usr/bin/env bash
# PyAV 18.1.0: `container.seek(0)` does not lead back to the beginning of an m4a. An AAC encoder puts a packet of silence
# in front (1024 samples, left out by the file's edit list), which the decoder needs: after the seek it is passed over,
# so the first samples decoded differ from those of a container that was just opened, by as much as the sound is loud.
# Who demuxes a file to count its packets has to open it again to decode it.
#
# Installs PyAV into a temporary folder, writes a second of a tone, and fails if that changes.
# Seen with Python 3.11 on Linux:
#   opened anew: 16000 samples
#   after seek(0): first 1024 samples differ by up to 0.5, the rest by 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" av==18.1.0 numpy
PYTHONPATH="$folder" python3 - "$folder/tone.m4a" <<'PYTHON'
import sys

import av
import numpy as np

path = sys.argv[1]
tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)
with av.open(path, "w", format="ipod") as file:
    stream = file.add_stream("aac", rate=16000, layout="mono")
    frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
    frame.rate, frame.pts = 16000, 0
    cutter = av.AudioResampler("fltp", "mono", 16000, frame_size=1024)
    for piece in [*cutter.resample(frame), *cutter.resample(None), None]:
        for packet in stream.encode(piece):
            file.mux(packet)


def decoded(seek: bool) -> np.ndarray:
    with av.open(path) as file:
        stream = file.streams.audio[0]
        if seek:
            for _ in file.demux(stream):
                pass
            file.seek(0)
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(stream)])


anew, sought = decoded(False)[:16000], decoded(True)[:16000]
off = np.abs(anew - sought)
print(f"opened anew: {len(anew)} samples")
print(f"after seek(0): first 1024 samples differ by up to {off[:1024].max():.1f}, the rest by {off[1024:].max():.1f}")
assert off[:1024].max() > 0.1 and off[1024:].max() < 0.01, "the behaviour has changed"
print("as found: a seek to 0 is not the beginning")
PYTHON
