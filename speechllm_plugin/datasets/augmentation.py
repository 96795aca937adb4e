"""Augmentation of training audio: what surrounds and colours speech in people's own recordings.

A clip's changes follow from its id, a seed and a variant number alone: they are the same on every machine, after
every interruption, and their features can be cached.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import soxr

from speechllm_plugin.configuration.checked import Checked

SAMPLE_RATE = 16000
"""Of what is augmented, in Hz."""

_TELEPHONE_RATE = 8000
_TELEPHONE_BAND = (300.0, 3400.0)
"""Hz that a telephone line carries (ITU-T G.712)."""
_MU = 255
"""Of the logarithmic companding in telephony (ITU-T G.711)."""
_QUIET_DB = -50.0
"""Level below the clip's peak under which its ends count as silence."""

Waveform = npt.NDArray[np.float32]


@dataclass(kw_only=True)
class AugmentationConfig(Checked):
    """How often a training clip is changed, and how far. The defaults of the sizes suit recordings by a microphone."""

    probability: float = 0.0
    """Share of the clips that are changed. 0 = none, as in the published systems."""
    silence_seconds: float = 2.0
    """Maximum silence that is added before and behind a clip. A third of the ends get some, more often short than long.
    Another third are cut to the speech itself, so that the first word may begin at sample 0."""
    noise_db: tuple[float, float] = (20.0, 50.0)
    """Range of the signal-to-noise ratio, in dB. Half of the changed clips get white or pink noise over their whole
    length."""
    gain_db: float = 10.0
    """Maximum change of the level, in dB, up or down; never so far that samples clip."""
    telephone: float = 0.15
    """Share of the changed clips that sound as by telephone: 300 to 3400 Hz at 8 kHz, mu-law."""
    variants: int = 1
    """Number of variants of each clip: epoch after epoch takes the next, then the first again. Encoder features are
    cached for each variant (`feature_cache`): n variants cost n times the space and the encoding."""
    seed: int = 0
    """Seed of all changes. It is apart from `common.seed`, so that runs with another seed share cached features."""

    def problems(self) -> Iterator[str]:
        for name in ("probability", "telephone"):
            if not 0 <= getattr(self, name) <= 1:
                yield f"{name}: found {getattr(self, name)}, expected between 0 and 1"
        for name in ("silence_seconds", "gain_db"):
            if not 0 <= getattr(self, name) <= 60:
                yield f"{name}: found {getattr(self, name)}, expected between 0 and 60"
        low, high = self.noise_db
        if not -20 <= low <= high <= 120:
            yield f"noise_db: found {self.noise_db}, expected two rising numbers from -20 to 120"
        if self.variants < 1:
            yield f"variants: found {self.variants}, expected at least 1"


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The changes of one clip, in the order in which they are made."""

    cut_front: bool = False
    """Whether silence before the speech is removed."""
    cut_back: bool = False
    front: float = 0.0
    """Seconds of silence put before."""
    back: float = 0.0
    noise_db: float | None = None
    """Signal-to-noise ratio; None = no noise."""
    pink: bool = False
    """Whether the noise falls by 3 dB an octave."""
    telephone: bool = False
    gain_db: float = 0.0
    seed: int = 0
    """Of the noise."""

    @property
    def added_seconds(self) -> float:
        return self.front + self.back

    @property
    def key(self) -> str:
        """A text that tells these changes from others."""
        return json.dumps(asdict(self))


def draw(config: AugmentationConfig, key: str, room: float) -> Augmentation | None:
    """
    :param key: names clip, seed and variant; equal keys give equal changes.
    :param room: seconds that the clip may grow by.
    :returns: None for a clip that stays as it is.
    """
    # Text seeds are hashed by SHA-512: neighbouring keys give unrelated numbers.
    generator = random.Random(key)
    if generator.random() >= config.probability:
        return None
    cuts, silences = [], []
    for _ in range(2):
        kind, length = generator.random(), generator.random()
        cuts.append(kind < 1 / 3)
        silences.append(config.silence_seconds * length**2 if kind > 2 / 3 else 0.0)
    scale = min(1.0, max(0.0, room) / max(sum(silences), 1e-9))
    noisy, pink, noise_db = generator.random() < 0.5, generator.random() < 0.5, generator.uniform(*config.noise_db)
    return Augmentation(
        cut_front=cuts[0],
        cut_back=cuts[1],
        front=silences[0] * scale,
        back=silences[1] * scale,
        noise_db=noise_db if noisy else None,
        pink=pink,
        telephone=generator.random() < config.telephone,
        gain_db=generator.uniform(-config.gain_db, config.gain_db),
        seed=generator.getrandbits(32),
    )


def augment(waveform: Waveform, changes: Augmentation) -> Waveform:
    """`[samples]` at 16 kHz -> `[samples']`: cut, silence, noise, telephone, gain."""
    speech = _cut(waveform, changes)
    samples = np.pad(speech, [round(seconds * SAMPLE_RATE) for seconds in (changes.front, changes.back)])
    if changes.noise_db is not None:
        level = _rms(speech) * 10 ** (-changes.noise_db / 20)
        samples = samples + level * _noise(len(samples), changes.pink, changes.seed)
    if changes.telephone:
        samples = _telephone(samples)
    peak = float(np.abs(samples).max())
    gain = 10 ** (changes.gain_db / 20)
    return (samples * (min(gain, 1 / peak) if peak > 0 else gain)).astype(np.float32)


def _cut(waveform: Waveform, changes: Augmentation) -> Waveform:
    loud = np.flatnonzero(np.abs(waveform) > np.abs(waveform).max() * 10 ** (_QUIET_DB / 20))
    if not len(loud):
        return waveform
    return waveform[loud[0] if changes.cut_front else 0 : loud[-1] + 1 if changes.cut_back else len(waveform)]


def _rms(samples: Waveform) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


def _noise(size: int, pink: bool, seed: int) -> Waveform:
    """`[size]` of root mean square 1."""
    noise = np.random.default_rng(seed).standard_normal(size)
    if pink:
        spectrum = np.fft.rfft(noise)
        spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
        spectrum[0] = 0.0
        noise = np.fft.irfft(spectrum, size)
    return (noise / max(np.sqrt(np.mean(noise**2)), 1e-12)).astype(np.float32)


def _telephone(samples: Waveform) -> Waveform:
    size = len(samples)
    narrow = soxr.resample(samples, SAMPLE_RATE, _TELEPHONE_RATE, quality="HQ")
    spectrum = np.fft.rfft(narrow)
    hertz = np.fft.rfftfreq(len(narrow), 1 / _TELEPHONE_RATE)
    low, high = _TELEPHONE_BAND
    # Half an octave of slope at the lower end, as lines have; a wall would ring.
    spectrum *= np.clip(hertz / low, 0.0, 1.0) ** 2 * (hertz <= high)
    narrow = np.fft.irfft(spectrum, len(narrow))
    peak = max(float(np.abs(narrow).max()), 1e-9)
    companded = np.sign(narrow) * np.log1p(_MU * np.abs(narrow) / peak) / np.log1p(_MU)
    companded = np.round(companded * 127) / 127  # 8 bits a sample
    narrow = np.sign(companded) * peak * np.expm1(np.abs(companded) * np.log1p(_MU)) / _MU
    wide = soxr.resample(narrow.astype(np.float32), _TELEPHONE_RATE, SAMPLE_RATE, quality="HQ")
    return np.pad(wide, (0, max(0, size - len(wide))))[:size]
