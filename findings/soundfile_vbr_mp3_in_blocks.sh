#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2): an mp3 of varying bit rate that is read in blocks is not what it is read whole. The
# Python binding seeks after each read to where the file already is, and a seek resets the decoder: the frames behind a
# block's end lean on bytes of frames before it, which the decoder has forgotten. Samples there are muted or garbled, and
# nothing is raised. Of a file that says it cannot seek the binding does not, and the same blocks are right.
#
# Installs soundfile into a temporary folder, writes 20 s of a tone in noise, and fails if that changes.
# Seen with Python 3.11 on Linux:
#   blocks of 16384 samples: 26.0 ms are wrong, by up to 0.09
#   the same blocks without seeks: 0.0 ms are wrong
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" soundfile==0.14.0 numpy
PYTHONPATH="$folder" python3 - "$folder/tone.mp3" 2> >(grep -v libmpg123 >&2) <<'PYTHON'
import sys

import numpy as np
import soundfile

RATE, BLOCK = 16000, 16384


class Unseekable(soundfile.SoundFile):
    def seekable(self) -> bool:
        return False


def wrong_in_blocks(kind: type[soundfile.SoundFile]) -> np.ndarray:
    """Samples that are not those of the whole file."""
    blocks = []
    with kind(sys.argv[1]) as file:
        while len(block := file.read(BLOCK)):
            blocks.append(block)
    difference = np.abs(np.concatenate(blocks) - whole)
    return difference[difference > 0.01]


times = np.arange(20 * RATE) / RATE
loudness = 0.55 + 0.45 * np.sin(2 * np.pi * 3.1 * times)
sound = 0.3 * loudness * np.sin(2 * np.pi * (200 + 50 * times) * times)
sound += 0.05 * np.random.default_rng(0).standard_normal(len(times))
soundfile.write(sys.argv[1], sound, RATE, bitrate_mode="VARIABLE", compression_level=0.5)
whole = soundfile.read(sys.argv[1])[0]
seeking, reading_on = wrong_in_blocks(soundfile.SoundFile), wrong_in_blocks(Unseekable)
print(f"blocks of {BLOCK} samples: {1000 * len(seeking) / RATE:.1f} ms are wrong, by up to {seeking.max(initial=0):.2f}")
print(f"the same blocks without seeks: {1000 * len(reading_on) / RATE:.1f} ms are wrong")
assert len(seeking) > 50 and len(reading_on) == 0, "the behaviour has changed"
print("as found: blocks of an mp3 are not the file")
PYTHON
