#!/usr/bin/env bash
# PyAV 18.1.0 (its FFmpeg): ALAC, which is lossless, comes back from a CAF file without its last samples. The last packet
# of 16,000 samples holds 3,712, and the file says rightly that 384 are missing to a whole packet of 4,096; the demuxer
# takes those 384 off the 3,712 once more. The same packets in an m4a come back whole. Who compares the samples with what the
# stream's duration says finds out.
#
# Installs PyAV into a temporary folder, writes a second of a tone into both containers, and fails if that changes.
# Seen with Python 3.11 on Linux:
#   caf: 15616 of 16000 samples
#   ipod: 16000 of 16000 samples
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" av==18.1.0 numpy
PYTHONPATH="$folder" python3 - "$folder/tone" <<'PYTHON'
import sys

import av
import numpy as np

tone = (16000 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.int16)
found = {}
for container in ("caf", "ipod"):
    with av.open(sys.argv[1], "w", format=container) as file:
        stream = file.add_stream("alac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16p", layout="mono")
        frame.rate, frame.pts = 16000, 0
        cutter = av.AudioResampler("s16p", "mono", 16000, frame_size=4096)
        for piece in [*cutter.resample(frame), *cutter.resample(None), None]:
            for packet in stream.encode(piece):
                file.mux(packet)
    with av.open(sys.argv[1]) as file:
        found[container] = sum(frame.samples for frame in file.decode(audio=0))
    print(f"{container}: {found[container]} of {len(tone)} samples")
assert found == {"caf": 15616, "ipod": 16000}, "the behaviour has changed"
print("as found: the end of a lossless file is lost")
PYTHON
