"""SpecAugment (arXiv 1904.08779) on the speech encoder's output instead of its input spectrogram.

A frozen encoder gets the whole clip, and the adapter gets the encoder's vectors with gaps. So any encoder will do, and
cached features are masked anew each time. A gap holds the clip's mean, as zeros in the paper's normalised spectrograms
do. There is no time warping, which the paper finds to help least (section 5).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.tensors.masks import length_mask


@dataclass(frozen=True, kw_only=True)
class FeatureMasks:
    """The masks of one clip."""

    time: int
    """Number of gaps in time."""
    time_seconds: float
    """Maximum length of a gap, in seconds."""
    time_share: float
    """Maximum length of a gap, as a share of its clip."""
    channels: int
    """Number of runs of channels that are masked."""
    channel_share: float
    """Maximum size of a run, as a share of all channels."""
    seed: str
    """Clips of one length and with one seed get the same masks."""

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
    :param lengths: `[B]`, on the host.
    :param masks: one for each clip; None = the clip stays as it is.
    :param frame_rate: of the features, in Hz.
    """
    if not any(masks):
        return features
    batch, size, width = features.shape
    in_time = torch.zeros(batch, size, 1, dtype=torch.bool, device="cpu")
    in_channels = torch.zeros(batch, 1, width, dtype=torch.bool, device="cpu")
    for row, (length, drawn) in enumerate(zip(lengths.tolist(), masks, strict=True)):
        if drawn is None:
            continue
        time, channels = drawn.places(length, width, frame_rate)
        for run in time:
            in_time[row, run.start : run.stop] = True
        for run in channels:
            in_channels[row, :, run.start : run.stop] = True
    device = features.device
    inside = length_mask(lengths, size, device).unsqueeze(2)
    masked = (on_device(in_time, device) | on_device(in_channels, device)) & inside  # (B, T, C)
    means = features.sum(dim=1, keepdim=True) / on_device(lengths, device)[:, None, None]  # (B, 1, C)
    return torch.where(masked, means.to(features.dtype), features)


def _run(generator: random.Random, size: int, widest: int) -> range:
    width = generator.randint(0, widest)
    start = generator.randint(0, size - width)
    return range(start, start + width)
