"""Speed perturbation: training clips played a little faster or slower, with their pitch (Ko et al., "Audio augmentation
for speech recognition", Interspeech 2015).

The speed of a clip follows from its id, a seed and how often it has been seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import soxr

from speechllm_plugin.files.columns.fields import Hashes, Places, mixed

_RATE = 16000

Values = npt.NDArray[np.float64]


def draw_speeds(speeds: Sequence[float], seed: int, ids: Hashes, variants: Places) -> Values:
    """The first variant of a clip has a speed that is drawn, each further variant the next speed in the list. As many
    variants as there are speeds have each speed once.

    :param ids: hashes of the clips' ids, see `Utterances.ids`.
    :returns: a speed for each clip.
    """
    key = np.frombuffer(hashlib.sha256(f"speed:{seed}".encode()).digest()[:8], dtype="<u8")
    places = (mixed(ids ^ key) + variants.astype(np.uint64)) % np.uint64(len(speeds))
    return np.asarray(speeds, dtype=np.float64)[places]


def change_speed(waveform: npt.NDArray[np.float32], speed: float) -> npt.NDArray[np.float32]:
    """`[samples]` -> `[samples / speed]`, both at 16 kHz."""
    return waveform if speed == 1 else soxr.resample(waveform, _RATE * speed, _RATE, quality="HQ")
