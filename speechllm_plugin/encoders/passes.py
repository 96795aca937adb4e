"""Encodes a batch in a few passes over clips of like length: a pass pads its clips to its own longest one.

The choice follows from the lengths, which the host knows, and from the kind of device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.tensors.copies import on_host

WORTH_A_PASS = 0.1
"""Share of its samples, padding included, that a pass must save for each pass that is split from it."""
PASS_SECONDS = 2.0
"""Seconds of padding, over all clips, that it must save at least on a CPU. A further pass, which reads all weights
again, was measured to cost as much as 0.5 to 1.9 s of audio (benchmarks/results/encoder-passes.md)."""
PASS_SECONDS_ON_GPU = 60.0
"""The same on a GPU, where the kernels of each pass are launched one by one. A safe guess, not measured: a pass through
24 layers takes the host about 10 ms, in which a large GPU encodes 40 s."""

Encode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def encode_in_passes(encode: Encode, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """`SpeechEncoder.encode` of a batch, in as many passes as are worth it.

    :param encode: gives a clip the same features, up to rounding, with any padding.
    """
    sizes = lengths.tolist()
    seconds = PASS_SECONDS if waveforms.device.type == "cpu" else PASS_SECONDS_ON_GPU
    passes = split_by_length(sizes, seconds * SAMPLE_RATE)
    if len(passes) == 1:
        return encode(waveforms, lengths)
    encoded = []
    for clips in passes:
        longest = sizes[clips[0]]
        rows = torch.stack([waveforms[clip, :longest] for clip in clips])
        encoded.append(encode(rows, on_host(sizes[clip] for clip in clips)))
    longest = max(features.size(1) for features, _ in encoded)
    padded = [row for features, _ in encoded for row in F.pad(features, (0, 0, 0, longest - features.size(1)))]
    found = [length for _, part in encoded for length in part]
    order = [clip for clips in passes for clip in clips]
    places = sorted(range(len(order)), key=order.__getitem__)
    return torch.stack([padded[place] for place in places]), torch.stack([found[place] for place in places])


def split_by_length(sizes: Sequence[int], least: float) -> list[list[int]]:
    """
    :param sizes: samples of each clip.
    :param least: samples of padding that another pass must save.
    :returns: the clips of each pass, longest first.
    """
    # The sort is stable, so that equal lengths always fall into the same passes.
    return _split(sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True), sizes, least)


def _split(clips: list[int], sizes: Sequence[int], least: float) -> list[list[int]]:
    longest = sizes[clips[0]]
    # Shorter clips than the first `i` would be padded to the longest of their own.
    saved = [(len(clips) - i) * (longest - sizes[clip]) for i, clip in enumerate(clips)]
    best = max(range(len(clips)), key=saved.__getitem__)
    if best == 0 or saved[best] < max(least, WORTH_A_PASS * len(clips) * longest):
        return [clips]
    return [*_split(clips[:best], sizes, least), *_split(clips[best:], sizes, least)]
