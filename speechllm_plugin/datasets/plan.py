"""Which clips share a batch, and which batches a step: decided up front from durations, a seed and the epoch.

The plan is the same for every number of processes that share a step's batches, and a position in it is all that
resuming needs.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

Batching = Literal["bucketed", "bucketed_steps", "random"]
"""Which clips share a step and a batch. `bucketed`: a step is a random sample of the clips, sorted by length into its
batches. `bucketed_steps`: all clips of a step are of about one length; the least padding, but gradients of long clips
and of short ones take turns. `random`: a batch is a random sample; the most padding."""

POOL = 64
"""Batches' worth of clips that are sorted by length together: little padding, and still another mix every epoch."""


@dataclass(frozen=True)
class BatchLimits:
    batch_size: int
    """The most clips in a batch."""
    max_seconds: float | None
    """The most audio in a batch, padding included, in seconds; None = no limit."""
    max_positions: int | None = None
    """The most positions of the LLM in a batch, padding included; None = no limit."""


@dataclass(frozen=True)
class Sizes:
    """Of the clips."""

    seconds: Sequence[float]
    positions: Sequence[int] | None = None
    """Of the LLM: prompt, speech and target; None = they do not matter."""

    @property
    def padded(self) -> Sequence[float]:
        """What batches are padded to: clips of about one size share a batch."""
        return self.seconds if self.positions is None else self.positions

    def limited(self, limits: BatchLimits) -> list[tuple[Sequence[float], float]]:
        """What a batch holds a limited sum of, with the limit."""
        pairs = ((self.seconds, limits.max_seconds), (self.positions, limits.max_positions))
        return [(values, limit) for values, limit in pairs if values is not None and limit is not None]


def make_batches(order: Sequence[int], sizes: Sizes, limits: BatchLimits) -> list[list[int]]:
    """Cuts clips, in the given order, into batches. A clip longer than a limit makes a batch of its own."""
    batches: list[list[int]] = []
    limited = sizes.limited(limits)
    largest = [0.0] * len(limited)
    for index in order:
        own = [values[index] for values, _ in limited]
        largest = list(map(max, largest, own))
        full = not batches or len(batches[-1]) == limits.batch_size
        if not full:
            number = len(batches[-1]) + 1
            full = any(most * number > limit for most, (_, limit) in zip(largest, limited, strict=True))
        if full:
            batches.append([])
            largest = own
        batches[-1].append(index)
    return batches


def training_steps(
    sizes: Sizes,
    limits: BatchLimits,
    batches_per_step: int,
    seed: int,
    epoch: int,
    batching: Batching = "bucketed",
) -> tuple[list[list[list[int]]], int]:
    """The steps of an epoch, each a list of `batches_per_step` batches.

    :returns: the steps, and how many batches were repeated to fill the last one (none is dropped).
    """
    rng = random.Random(f"{seed}:{epoch}")
    order = list(range(len(sizes.seconds)))
    rng.shuffle(order)
    if batching == "bucketed":
        return _random_steps(order, sizes, limits, batches_per_step)
    batches = make_batches(order, sizes, limits) if batching == "random" else _pooled(order, sizes, limits)
    repeated = -len(batches) % batches_per_step
    batches += [batches[i % len(batches)] for i in range(repeated)]
    steps = [batches[i : i + batches_per_step] for i in range(0, len(batches), batches_per_step)]
    rng.shuffle(steps)
    return steps, repeated


def _pooled(order: Sequence[int], sizes: Sizes, limits: BatchLimits) -> list[list[int]]:
    """Batches of clips of nearly one length, so that neighbouring batches are alike, too."""
    pool = POOL * limits.batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        batches += make_batches(_by_length(order[start : start + pool], sizes), sizes, limits)
    return batches


def _random_steps(
    order: Sequence[int], sizes: Sizes, limits: BatchLimits, batches_per_step: int
) -> tuple[list[list[list[int]]], int]:
    """Each step takes the next clips in the order, as many as its batches hold, and sorts them into its batches."""
    # Padding only adds: clips of more seconds, or positions, than this never fit, which saves trying.
    bounds = [
        ([0.0, *accumulate(min(values[index], limit) for index in order)], batches_per_step * limit)
        for values, limit in sizes.limited(limits)
    ]
    steps: list[list[list[int]]] = []
    start = 0
    while start < len(order):
        end = min(len(order), start + batches_per_step * limits.batch_size)
        for total, most in bounds:
            end = min(end, max(start + 1, bisect_right(total, total[start] + most) - 1))

        def batches_to(stop: int, start: int = start) -> list[list[int]]:
            return make_batches(_by_length(order[start:stop], sizes), sizes, limits)

        batches = batches_to(end)
        if len(batches) > batches_per_step:
            # The first stop that does not fit; a batch a clip always does.
            stops = range(start, end + 1)
            beyond = bisect_left(
                stops, batches_per_step + 1, lo=batches_per_step + 1, key=lambda stop: len(batches_to(stop))
            )
            end = stops[beyond - 1]
            batches = batches_to(end)
        steps.append(_split(batches, batches_per_step))
        start = end
    last = steps[-1]
    repeated = batches_per_step - len(last)
    whole = [batch for step in steps for batch in step]
    last += [whole[i % len(whole)] for i in range(repeated)]
    return steps, repeated


def _split(batches: list[list[int]], number: int) -> list[list[int]]:
    """Halves the largest batches until there are as many as that, or until each is one clip."""
    while len(batches) < number:
        largest = max(range(len(batches)), key=lambda place: len(batches[place]))
        clips = batches[largest]
        if len(clips) == 1:
            break
        batches[largest : largest + 1] = [clips[: len(clips) // 2], clips[len(clips) // 2 :]]
    return batches


def _by_length(indices: Sequence[int], sizes: Sizes) -> list[int]:
    return sorted(indices, key=sizes.padded.__getitem__)


def padding(steps: Iterable[Sequence[Sequence[int]]], sizes: Sizes) -> float:
    """The share of the audio in these batches, or of the LLM's positions where they are known, that is padding."""
    real = padded = 0.0
    for step in steps:
        for batch in step:
            lengths = [sizes.padded[index] for index in batch]
            real += sum(lengths)
            padded += max(lengths) * len(lengths)
    return 1 - real / padded if padded else 0.0


def evaluation_steps(sizes: Sizes, limits: BatchLimits, batches_per_step: int) -> list[list[list[int]]]:
    """Every clip once, longest first (so that running out of memory shows at once); the last step may be short."""
    order = sorted(range(len(sizes.seconds)), key=lambda index: -sizes.padded[index])
    batches = make_batches(order, sizes, limits)
    return [batches[i : i + batches_per_step] for i in range(0, len(batches), batches_per_step)]
