"""Gives the probability of speech for every 32 ms of a stream, by silero-vad's sequence model."""

from __future__ import annotations

import importlib.util
from collections import deque
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechllm_plugin.errors import UserError

FRAME = 512
"""Samples at 16 kHz that have one probability."""
INSTALL = "pip install 'speechllm-plugin[long]'"

_CONTEXT = 64
"""Samples before a frame that the model gets with it."""
_BLOCK = 128
"""Frames in a call: 4.1 s."""
_MODEL = "data/silero_vad_16k_sequence.onnx"
_LEVEL = 0.1
"""Root mean square to which quiet sound is amplified: at 1/100 of the usual level, beginnings of speech are missed."""
_MOST_GAIN = 30.0
"""Greatest gain: more would also amplify the noise of an empty room."""
_TENTH = 1600
"""Samples of 0.1 s."""
_BLOCKS_HEARD = 8
"""Blocks over which the loudest 0.1 s is taken as the level: half a minute."""


class VoiceActivity:
    """Probabilities of speech in a stream, which do not depend on its division into calls."""

    def __init__(self) -> None:
        """
        :raises UserError: silero-vad or onnxruntime is not installed.
        """
        try:
            import onnxruntime
        except ImportError:
            onnxruntime = None
        # The package is not imported, since that would set PyTorch to one thread for the whole process.
        package = importlib.util.find_spec("silero_vad")
        if onnxruntime is None or package is None or not package.submodule_search_locations:
            raise UserError(f"pauses are found by silero-vad, which is not installed here: {INSTALL}")
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(Path(package.submodule_search_locations[0]) / _MODEL), options, providers=["CPUExecutionProvider"]
        )
        self._hidden = self._cell = np.zeros((1, 1, 128), dtype=np.float32)
        self._context = np.zeros(_CONTEXT, dtype=np.float32)
        self._waiting: list[npt.NDArray[np.float32]] = []
        self._levels: deque[float] = deque(maxlen=_BLOCKS_HEARD)

    def feed(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """
        :param samples: the next samples of the stream, `[n]` at 16 kHz.
        :returns: the probabilities of the next complete frames, `[frames]`; perhaps none.
        """
        self._waiting.append(samples)
        size = _BLOCK * FRAME
        if sum(map(len, self._waiting)) < size:
            return np.zeros(0, dtype=np.float32)
        sound = np.concatenate(self._waiting)
        end = len(sound) // size * size
        self._waiting = [sound[end:]]
        return np.concatenate([self._run(sound[start : start + size]) for start in range(0, end, size)])

    def finish(self) -> npt.NDArray[np.float32]:
        """The probabilities of the last frames; an incomplete frame is filled up with silence."""
        sound = np.concatenate([*self._waiting, np.zeros(0, dtype=np.float32)])
        self._waiting = []
        if not len(sound):
            return sound
        return self._run(np.pad(sound, (0, -len(sound) % FRAME)))

    def _run(self, sound: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """
        :param sound: `[frames * FRAME]`
        """
        self._levels.append(_level(sound))
        sound = sound * min(_MOST_GAIN, max(1.0, _LEVEL / max(max(self._levels), 1e-9)))
        frames = sound.reshape(-1, FRAME)
        contexts = np.concatenate([self._context[None], frames[:-1, -_CONTEXT:]])
        self._context = frames[-1, -_CONTEXT:].copy()
        values, self._hidden, self._cell = self._session.run(
            ["speech_probs", "hn", "cn"],
            {
                "input": np.concatenate([contexts, frames], axis=1).astype(np.float32),  # (frames, 64 + 512)
                "h": self._hidden,
                "c": self._cell,
            },
        )
        probabilities: npt.NDArray[np.float32] = values.reshape(-1)
        return probabilities


def _level(sound: npt.NDArray[np.float32]) -> float:
    """Root mean square of the loudest 0.1 s."""
    tenths = np.pad(sound, (0, -len(sound) % _TENTH)).reshape(-1, _TENTH)
    return float(np.sqrt(np.square(tenths, dtype=np.float64).mean(axis=1).max()))
