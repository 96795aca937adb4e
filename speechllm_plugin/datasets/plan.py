"""Which clips share a batch, and which batches a step: decided up front from durations, a seed and the epoch.

The plan is the same for every number of processes that share a step's batches, and a position in it is all that
resuming needs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

POOL = 64
"""Batches' worth of clips that are sorted by length together: little padding, and still another mix every epoch."""


@dataclass(frozen=True)
class BatchLimits:
    batch_size: int
    """The most clips in a batch."""
    max_seconds: float | None
    """The most audio in a batch, padding included, in seconds; None = no limit."""


def make_batches(order: Sequence[int], seconds: Sequence[float], limits: BatchLimits) -> list[list[int]]:
    """Cuts clips, in the given order, into batches. A clip longer than the limit makes a batch of its own."""
    batches: list[list[int]] = []
    longest = 0.0
    for index in order:
        longest = max(longest, seconds[index])
        full = not batches or len(batches[-1]) == limits.batch_size
        if not full and limits.max_seconds is not None:
            full = longest * (len(batches[-1]) + 1) > limits.max_seconds
        if full:
            batches.append([])
            longest = seconds[index]
        batches[-1].append(index)
    return batches


def training_steps(
    seconds: Sequence[float], limits: BatchLimits, batches_per_step: int, seed: int, epoch: int
) -> tuple[list[list[list[int]]], int]:
    """The steps of an epoch: each a list of `batches_per_step` batches of similar length.

    :returns: the steps, and how many batches were repeated to fill the last one (none is dropped).
    """
    rng = random.Random(f"{seed}:{epoch}")
    order = list(range(len(seconds)))
    rng.shuffle(order)
    pool = POOL * limits.batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        by_length = sorted(order[start : start + pool], key=lambda index: seconds[index])
        batches += make_batches(by_length, seconds, limits)
    repeated = -len(batches) % batches_per_step
    batches += [batches[i % len(batches)] for i in range(repeated)]
    steps = [batches[i : i + batches_per_step] for i in range(0, len(batches), batches_per_step)]
    rng.shuffle(steps)
    return steps, repeated


def evaluation_steps(seconds: Sequence[float], limits: BatchLimits, batches_per_step: int) -> list[list[list[int]]]:
    """Every clip once, longest first (so that running out of memory shows at once); the last step may be short."""
    order = sorted(range(len(seconds)), key=lambda index: -seconds[index])
    batches = make_batches(order, seconds, limits)
    return [batches[i : i + batches_per_step] for i in range(0, len(batches), batches_per_step)]
