"""Which clips share a batch, and which batches a step: decided up front from durations, a seed and the epoch.

The plan is the same for every number of processes that share a step's batches, and a position in it is all that
resuming needs.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from operator import add, le, mul
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from speechllm_plugin.datasets.order import shuffled
from speechllm_plugin.datasets.steps import Step, Steps
from speechllm_plugin.files.columns.fields import Flags, Places

Values = npt.NDArray[Any]
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
    """The most audio in a batch, earlier turns and padding included, in seconds; None = no limit."""
    max_positions: int | None = None
    """The most positions of the LLM in a batch, padding included; None = no limit."""


@dataclass(frozen=True)
class EarlierSound:
    """Of each clip, what was said in the turns before it: it is encoded in the clip's batch."""

    number: Values
    seconds: Values
    """Of all of it."""
    longest: Values
    """Seconds of the longest."""

    @classmethod
    def of(cls, clips: Sequence[Sequence[float]]) -> EarlierSound:
        """:param clips: the seconds of each turn."""
        sizes = [(len(turns), sum(turns), max(turns, default=0.0)) for turns in clips]
        number, seconds, longest = np.array(sizes, dtype=np.float64).reshape(-1, 3).T
        return cls(number.astype(np.int64), seconds, longest)

    def take(self, clips: Places) -> EarlierSound:
        return EarlierSound(self.number[clips], self.seconds[clips], self.longest[clips])


class Padded(NamedTuple):
    """What a batch pads: its largest size, times how many there are."""

    largest: Values
    """Of each clip."""
    number: Values | None
    """How many each clip has; None = one."""

    def of(self, clips: Places | Flags) -> Padded:
        return Padded(self.largest[clips], None if self.number is None else self.number[clips])

    @property
    def alone(self) -> Values:
        """Of each clip in a batch of its own."""
        return self.largest if self.number is None else self.largest * self.number

    def numbers(self) -> list[int]:
        return [1] * len(self.largest) if self.number is None else self.number.tolist()


Limited = Sequence[tuple[Padded, float]]
"""Of clips in their order, with what a batch of them may hold."""


class Sizes:
    """Of the clips."""

    def __init__(
        self, seconds: npt.ArrayLike, positions: npt.ArrayLike | None = None, earlier: EarlierSound | None = None
    ) -> None:
        """
        :param positions: of the LLM: prompt, speech and target; None = they do not matter.
        :param earlier: None = nothing was said before any clip.
        """
        self._seconds = np.asarray(seconds, dtype=np.float64)
        self._earlier = earlier
        self.sound = Padded(self._seconds, None)
        if earlier is not None:
            self.sound = Padded(np.maximum(self._seconds, earlier.longest), 1 + earlier.number)
        self.positions = None if positions is None else Padded(np.asarray(positions, dtype=np.int64), None)

    def __len__(self) -> int:
        return len(self._seconds)

    @property
    def padded(self) -> Padded:
        """Clips of about one size share a batch."""
        return self.sound if self.positions is None else self.positions

    @property
    def filled(self) -> Values:
        """How much of that is no padding."""
        if self.positions is not None:
            return self.positions.largest
        return self._seconds if self._earlier is None else self._seconds + self._earlier.seconds

    def limited(self, limits: BatchLimits) -> list[tuple[Padded, float]]:
        """What a batch holds a limited sum of, with the limit."""
        pairs = ((self.sound, limits.max_seconds), (self.positions, limits.max_positions))
        return [(padded, limit) for padded, limit in pairs if padded is not None and limit is not None]


def make_batches(order: Sequence[int] | Places, sizes: Sizes, limits: BatchLimits) -> list[list[int]]:
    """Cuts clips, in the given order, into batches. A clip longer than a limit makes a batch of its own."""
    order = np.asarray(order, dtype=np.int64)
    limited = [(padded.of(order), limit) for padded, limit in sizes.limited(limits)]
    ends = list(_ends(len(order), limited, limits.batch_size))
    return [order[start:end].tolist() for start, end in zip([0, *ends], ends, strict=False)]


def _ends(number: int, limited: Limited, batch_size: int) -> Iterator[int]:
    """Where the batches end that `number` clips, in their order, are cut into."""
    if not limited:
        yield from range(batch_size, number, batch_size)
    elif len(limited) == 1 and limited[0][0].number is None:
        ((padded, limit),) = limited
        yield from _ends_of_one(padded.largest.tolist(), limit, batch_size)
    else:
        yield from _ends_of_several(limited, batch_size)
    yield number


def _ends_of_one(values: Sequence[float], limit: float, batch_size: int) -> Iterator[int]:
    """All but the last one. It is called millions of times for a large corpus."""
    start, longest = 0, 0.0
    for place, value in enumerate(values):
        clips = place - start + 1
        if value > longest:
            longest = value
        if (clips > batch_size or longest * clips > limit) and place > start:
            yield place
            start, longest = place, value


def _ends_of_rising(values: Sequence[float], limit: float, batch_size: int) -> Iterator[int]:
    """`_ends_of_one` of values that rise: in a batch more clips, and longer ones, only take more room."""
    start, number = 0, len(values)
    while True:
        low, high = start + 1, min(start + batch_size, number)
        while low < high:
            middle = (low + high + 1) // 2
            if values[middle - 1] * (middle - start) > limit:
                high = middle - 1
            else:
                low = middle
        if low == number:
            return
        yield low
        start = low


def _ends_of_several(limited: Limited, batch_size: int) -> Iterator[int]:
    start, largest, number = 0, [0.0] * len(limited), [0] * len(limited)
    limits = [limit for _, limit in limited]
    sizes = zip(*(padded.largest.tolist() for padded, _ in limited), strict=True)
    numbers = zip(*(padded.numbers() for padded, _ in limited), strict=True)
    for place, (own, own_number) in enumerate(zip(sizes, numbers, strict=True)):
        largest, number = list(map(max, largest, own)), list(map(add, number, own_number))
        fits = all(map(le, map(mul, largest, number), limits))
        if (place - start + 1 > batch_size or not fits) and place > start:
            yield place
            start, largest, number = place, list(own), list(own_number)


def _largest(fits: Callable[[int], bool], least: int, most: int, guess: int) -> int:
    """The largest number from `least`, which fits, to `most` that fits, where all below one that fits do, too.

    :param guess: one that is likely to be near.
    """
    low, high, step = min(max(guess, least), most), most + 1, 1
    if low > least and not fits(low):
        low, high = least, low
        while high - step > low:
            if fits(high - step):
                low = high - step
            else:
                high, step = high - step, 2 * step
    while low + step < high:
        if fits(low + step):
            low, step = low + step, 2 * step
        else:
            high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def training_steps(
    sizes: Sizes,
    limits: BatchLimits,
    batches_per_step: int,
    seed: int,
    epoch: int,
    batching: Batching = "bucketed",
) -> tuple[Steps, int]:
    """The steps of an epoch, each of `batches_per_step` batches.

    :returns: the steps, and how many batches were repeated to fill the last one (none is dropped).
    """
    generator = random.Random(f"{seed}:{epoch}")
    order = shuffled(generator, len(sizes))
    if batching == "bucketed":
        return _filled(_random_steps(order, sizes, limits, batches_per_step), batches_per_step)
    batches = make_batches(order, sizes, limits) if batching == "random" else _pooled(order, sizes, limits)
    repeated = -len(batches) % batches_per_step
    batches += [batches[i % len(batches)] for i in range(repeated)]
    steps = shuffled(generator, len(batches) // batches_per_step)
    return Steps(batches[i * batches_per_step : (i + 1) * batches_per_step] for i in steps.tolist()), repeated


def _filled(steps: Iterable[Step], batches_per_step: int) -> tuple[Steps, int]:
    """As many batches in the last step as in the others: the epoch's first ones are repeated."""
    first: Step = []
    repeated = 0

    def fill() -> Iterator[Step]:
        nonlocal repeated
        for step in steps:
            first.extend(step[: batches_per_step - len(first)])
            repeated = batches_per_step - len(step)
            yield [*step, *(first[i % len(first)] for i in range(repeated))]

    return Steps(fill()), repeated


def _pooled(order: Places, sizes: Sizes, limits: BatchLimits) -> list[list[int]]:
    """Batches of clips of nearly one length, so that neighbouring batches are alike, too."""
    pool = POOL * limits.batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        clips = order[start : start + pool]
        batches += make_batches(clips[np.argsort(sizes.padded.largest[clips], kind="stable")], sizes, limits)
    return batches


def _random_steps(order: Places, sizes: Sizes, limits: BatchLimits, batches_per_step: int) -> Iterator[Step]:
    """Each step takes the next clips in the order, as many as its batches hold, and sorts them into its batches."""
    # Padding only adds: clips of more seconds, or positions, than this never fit, which saves trying.
    bounds = [
        (_floats(np.concatenate([[0.0], np.cumsum(np.minimum(padded.alone[order], limit))])), batches_per_step * limit)
        for padded, limit in sizes.limited(limits)
    ]
    start, real = 0, [0.0] * len(bounds)
    while start < len(order):
        end = min(len(order), start + batches_per_step * limits.batch_size)
        for total, most in bounds:
            end = min(end, max(start + 1, bisect_right(total, total[start] + most, start, end + 1) - 1))
        window = _Window(order[start:end], sizes, limits)
        # A batch a clip always fits; about as much as in the step before is likely to.
        least, guess = min(batches_per_step, end - start), end - start
        for (total, _), used in zip(bounds, real, strict=True):
            guess = min(guess, bisect_right(total, total[start] + used, start, end + 1) - 1 - start)
        clips = _largest(partial(window.fits, batches_per_step), least, end - start, guess)
        yield _split(window.batches(clips), batches_per_step)
        real = [total[start + clips] - total[start] for total, _ in bounds]
        start += clips


def _floats(values: Values) -> memoryview:
    """As Python's own, without an object for each."""
    return memoryview(values)  # type: ignore[arg-type]


class _Window:
    """Clips that a step may begin with, in the epoch's order."""

    def __init__(self, clips: Places, sizes: Sizes, limits: BatchLimits) -> None:
        self._by_size = np.argsort(sizes.padded.largest[clips], kind="stable")
        self._sorted = clips[self._by_size]
        limited = sizes.limited(limits)
        self._limited = [(padded.of(self._sorted), limit) for padded, limit in limited]
        self._batch_size = limits.batch_size
        self._rises = len(limited) == 1 and limited[0][0] is sizes.padded and sizes.padded.number is None

    def fits(self, batches: int, clips: int) -> bool:
        """Whether so many batches hold the first clips."""
        return next(islice(self._ends(self._by_size < clips, clips), batches, None), None) is None

    def batches(self, clips: int) -> Step:
        is_in = self._by_size < clips
        chosen = self._sorted[is_in].tolist()
        ends = list(self._ends(is_in, clips))
        return [chosen[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]

    def _ends(self, is_in: Flags, clips: int) -> Iterator[int]:
        limited = [(padded.of(is_in), limit) for padded, limit in self._limited]
        if self._rises:
            ((padded, limit),) = limited
            return chain(_ends_of_rising(padded.largest.tolist(), limit, self._batch_size), [clips])
        return _ends(clips, limited, self._batch_size)


def _split(batches: Step, number: int) -> Step:
    """Halves the largest batches until there are as many as that, or until each is one clip."""
    while len(batches) < number:
        largest = max(range(len(batches)), key=lambda place: len(batches[place]))
        clips = batches[largest]
        if len(clips) == 1:
            break
        batches[largest : largest + 1] = [clips[: len(clips) // 2], clips[len(clips) // 2 :]]
    return batches


def padding(steps: Steps, sizes: Sizes) -> float:
    """The share of the audio in these batches, or of the LLM's positions where they are known, that is padding."""
    return steps.padding(sizes.filled, *sizes.padded)


def evaluation_steps(sizes: Sizes, limits: BatchLimits, batches_per_step: int) -> Steps:
    """Every clip once, longest first (so that running out of memory shows at once); the last step may be short."""
    batches = make_batches(np.argsort(-sizes.padded.largest, kind="stable"), sizes, limits)
    return Steps(batches[i : i + batches_per_step] for i in range(0, len(batches), batches_per_step))
