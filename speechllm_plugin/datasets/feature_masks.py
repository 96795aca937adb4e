"""SpecAugment (arXiv 1904.08779) on what the speech encoder gives, in place of the spectrogram that it takes.

A frozen encoder hears the whole clip, and the adapter gets its vectors with gaps: any encoder will do, and features
from a cache are masked anew each time. A gap holds the clip's mean, as zeros in the paper's normalised spectrograms do.
There is no time warping, which the paper finds to help least (section 5).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FeatureMasks:
    """Of one clip."""

    time: int
    """Number of gaps in time."""
    time_seconds: float
    """The most that each lasts."""
    time_share: float
    """The most that each is of its clip."""
    channels: int
    """Number of runs of channels that are masked."""
    channel_share: float
    """The most that each is of all channels."""
    seed: str
    """Equal seeds of clips of equal lengths give equal masks."""

    def places(self, frames: int, channels: int, frame_rate: float) -> tuple[list[range], list[range]]:
        """Which frames and which channels are masked."""
        generator = random.Random(self.seed)
        widest = min(round(self.time_seconds * frame_rate), int(self.time_share * frames))
        time = [_run(generator, frames, widest) for _ in range(self.time)]
        return time, [_run(generator, channels, int(self.channel_share * channels)) for _ in range(self.channels)]


def mask_features(
    features: Tensor, lengths: Tensor, masks: Sequence[FeatureMasks | None], frame_rate: float
) -> Tensor:
    """
    :param features: `[B, T, C]`, zeros beyond each length.
    :param lengths: `[B]`.
    :param masks: of each clip; None = it stays as it is.
    :param frame_rate: of the features, in Hz.
    """
    if not any(masks):
        return features
    places = [
        ([], []) if drawn is None else drawn.places(length, features.size(2), frame_rate)
        for length, drawn in zip(lengths.tolist(), masks, strict=True)
    ]
    frames = _covered([time for time, _ in places], features.size(1), features.device)  # (B, T)
    channels = _covered([channels for _, channels in places], features.size(2), features.device)  # (B, C)
    is_real = torch.arange(features.size(1), device=features.device) < lengths[:, None]  # (B, T)
    masked = frames[:, :, None] | (is_real[:, :, None] & channels[:, None, :])  # (B, T, C)
    means = features.sum(dim=1, keepdim=True) / lengths[:, None, None]  # (B, 1, C)
    return torch.where(masked, means.to(features.dtype), features)


def _covered(runs: Sequence[Sequence[range]], size: int, device: torch.device) -> Tensor:
    """Which of `size` places are in any run of a row, `[rows, size]`. Only the ends of the runs go to the device."""
    most = max(map(len, runs))
    ends = [[*((run.start, run.stop) for run in own), *[(0, 0)] * (most - len(own))] for own in runs]
    starts, stops = torch.tensor(ends, dtype=torch.int64, device=device).view(len(runs), most, 2, 1).unbind(2)
    places = torch.arange(size, device=device)
    return ((places >= starts) & (places < stops)).any(dim=1)  # (rows, runs, size) -> (rows, size)


def _run(generator: random.Random, size: int, widest: int) -> range:
    width = generator.randint(0, widest)
    start = generator.randint(0, size - width)
    return range(start, start + width)
