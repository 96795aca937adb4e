"""Augmentation of training audio: surroundings and sound as in people's own recordings, speed, and gaps in the
features.

A clip's changes follow from its id, a seed and a variant number alone: they are the same on every machine, after
every interruption, and their features can be cached.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
import soxr

from speechllm_plugin.configuration.checked import Checked
from speechllm_plugin.datasets.feature_masks import FeatureMasks
from speechllm_plugin.datasets.speed import change_speed

SAMPLE_RATE = 16000
"""Sample rate of the audio that is augmented, in Hz."""

_TELEPHONE_RATE = 8000
_TELEPHONE_BAND = (300.0, 3400.0)
"""Hz that a telephone line carries (ITU-T G.712)."""
_MU = 255
"""Parameter of the logarithmic companding in telephony (ITU-T G.711)."""
_QUIET_DB = -50.0
"""Level below the clip's peak under which its ends count as silence."""

Waveform = npt.NDArray[np.float32]

_LATER = {"speed", "time_masks", "time_mask_seconds", "time_mask_share", "channel_masks", "channel_mask_share"}
"""Keys that earlier versions did not have."""


@dataclass(kw_only=True)
class AugmentationConfig(Checked):
    """How many training clips are changed, and how much. The default sizes suit recordings by a microphone."""

    probability: float = 0.0
    """Share of the clips that are changed. 0 = none, as in the published systems."""
    silence_seconds: float = 2.0
    """Maximum silence that is added before and after a clip. A third of the ends get silence, more often short than
    long. Another third are cut to the speech itself, so that the first word may begin at sample 0."""
    noise_db: tuple[float, float] = (20.0, 50.0)
    """Range of the signal-to-noise ratio, in dB. Half of the changed clips get white or pink noise over their whole
    length."""
    gain_db: float = 10.0
    """Maximum change of the level, in dB, up or down; never so far that samples clip."""
    telephone: float = 0.15
    """Share of the changed clips that sound like a telephone: 300 to 3400 Hz at 8 kHz, mu-law."""
    variants: int = 1
    """Number of variants of each clip: each epoch takes the next one, then the first again. Encoder features are
    cached for each variant (`feature_cache`): n variants cost n times the space and the encoding."""
    seed: int = 0
    """Seed of all changes. It is separate from `common.seed`, so that runs with other seeds share cached features."""
    speed: list[float] = field(default_factory=list)
    """Speeds of the training clips, such as `[0.9, 1.0, 1.1]` (Ko et al., Interspeech 2015): each variant of a clip has
    the next one, so that `variants=3` has all three of each clip. It applies to all clips, whatever `probability` is;
    one that would then be too long keeps its speed. Empty = as recorded."""
    time_masks: int = 0
    """Number of gaps in the encoder's features of each clip, as SpecAugment has them in the spectrogram
    (arXiv 1904.08779). Every epoch has new gaps, even with cached features. A gap holds the clip's mean. 0 = none."""
    time_mask_seconds: float = 1.0
    """Maximum length of a gap: the paper's T of 100 frames."""
    time_mask_share: float = 0.2
    """Maximum length of a gap as a share of its clip: the paper's p for Switchboard (1.0 for LibriSpeech)."""
    channel_masks: int = 0
    """Number of runs of channels that are masked in the same way. The channels of an encoder are in no order, unlike
    the paper's frequencies. 0 = none."""
    channel_mask_share: float = 0.1
    """Maximum share of the channels in a run."""

    @property
    def changes_length(self) -> bool:
        return self.probability > 0 or bool(self.speed)

    def named(self) -> dict[str, object]:
        """The keys for a checkpoint: those of later versions only where they are used; empty where nothing is
        changed."""
        plain = asdict(AugmentationConfig())
        values = {name: value for name, value in asdict(self).items() if name not in _LATER or value != plain[name]}
        return values if self.probability > 0 or not _LATER.isdisjoint(values) else {}

    def masks(self, identity: str, turn: int) -> FeatureMasks | None:
        """The masks of the clip with this id at its `turn`-th time."""
        if not (self.time_masks or self.channel_masks):
            return None
        return FeatureMasks(
            time=self.time_masks,
            time_seconds=self.time_mask_seconds,
            time_share=self.time_mask_share,
            channels=self.channel_masks,
            channel_share=self.channel_mask_share,
            seed=f"masks:{self.seed}:{identity}:{turn}",
        )

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
        if not all(0.5 <= speed <= 2 for speed in self.speed):
            yield f"speed: found {list(self.speed)}, expected numbers from 0.5 to 2"
        for name in ("time_masks", "channel_masks"):
            if getattr(self, name) < 0:
                yield f"{name}: found {getattr(self, name)}, expected 0 or more"
        for name in ("time_mask_share", "channel_mask_share"):
            if not 0 < getattr(self, name) <= 1:
                yield f"{name}: found {getattr(self, name)}, expected above 0 and at most 1"
        if not 0 < self.time_mask_seconds < float("inf"):
            yield f"time_mask_seconds: found {self.time_mask_seconds}, expected a number above 0"


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The changes of one clip, in the order in which they are made."""

    speed: float = 1.0
    """Factor by which the clip is played faster; the first change."""
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
    """Seed of the noise."""

    @property
    def added_seconds(self) -> float:
        """Seconds of silence that are added."""
        return self.front + self.back

    def seconds(self, recorded: float) -> float:
        """The length of a clip after the changes; a clip whose ends are cut may be shorter."""
        return recorded / self.speed + self.added_seconds

    @property
    def key(self) -> str:
        """A text that is different for different changes."""
        changes = asdict(self)
        if self.speed == 1:
            # The key of a clip at its own speed stays that of earlier versions, whose cached features are found.
            del changes["speed"]
        return json.dumps(changes)


def draw(config: AugmentationConfig, key: str, room: float, speed: float = 1.0) -> Augmentation | None:
    """
    :param key: names clip, seed and variant; equal keys give equal changes.
    :param room: seconds that the clip may grow by, after its speed has been changed.
    :returns: None for a clip that stays as it is.
    """
    # Text seeds are hashed by SHA-512: neighbouring keys give unrelated numbers.
    generator = random.Random(key)
    if generator.random() >= config.probability:
        return None if speed == 1 else Augmentation(speed=speed)
    cuts, silences = [], []
    for _ in range(2):
        kind, length = generator.random(), generator.random()
        cuts.append(kind < 1 / 3)
        silences.append(config.silence_seconds * length**2 if kind > 2 / 3 else 0.0)
    scale = min(1.0, max(0.0, room) / max(sum(silences), 1e-9))
    noisy, pink, noise_db = generator.random() < 0.5, generator.random() < 0.5, generator.uniform(*config.noise_db)
    return Augmentation(
        speed=speed,
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
    """`[samples]` at 16 kHz -> `[samples']`: speed, cut, silence, noise, telephone, gain."""
    speech = _cut(change_speed(waveform, changes.speed), changes)
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
    # The lower edge slopes over half an octave, as that of real lines does; a sharp edge would ring.
    spectrum *= np.clip(hertz / low, 0.0, 1.0) ** 2 * (hertz <= high)
    narrow = np.fft.irfft(spectrum, len(narrow))
    peak = max(float(np.abs(narrow).max()), 1e-9)
    companded = np.sign(narrow) * np.log1p(_MU * np.abs(narrow) / peak) / np.log1p(_MU)
    companded = np.round(companded * 127) / 127  # 8 bits a sample
    narrow = np.sign(companded) * peak * np.expm1(np.abs(companded) * np.log1p(_MU)) / _MU
    wide = soxr.resample(narrow.astype(np.float32), _TELEPHONE_RATE, SAMPLE_RATE, quality="HQ")
    return np.pad(wide, (0, max(0, size - len(wide))))[:size]
