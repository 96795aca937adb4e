"""The plan of batches: every clip, within the limits, and the same whatever the number of processes."""

from __future__ import annotations

import random
import statistics
from collections import Counter

import pytest

from speechllm_plugin.datasets.plan import (
    POOL,
    Batching,
    BatchLimits,
    EarlierSound,
    Sizes,
    evaluation_steps,
    make_batches,
    padding,
    training_steps,
)

RNG = random.Random(0)
SECONDS = [round(RNG.uniform(0.3, 29.0), 2) for _ in range(501)]
CLIPS = Sizes(SECONDS)

LIMITS = [
    pytest.param(BatchLimits(8, None), id="clips"),
    pytest.param(BatchLimits(8, 60.0), id="clips and seconds"),
    pytest.param(BatchLimits(1000, 45.5), id="seconds"),
    pytest.param(BatchLimits(1, None), id="one by one"),
    pytest.param(BatchLimits(8, 5.0), id="less than most clips"),
]


def flat(steps: list[list[list[int]]]) -> list[int]:
    return [index for step in steps for batch in step for index in batch]


def check_limits(batches: list[list[int]], limits: BatchLimits) -> None:
    for batch in batches:
        assert 1 <= len(batch) <= limits.batch_size
        if limits.max_seconds is not None and len(batch) > 1:
            # Padding is audio too.
            assert max(SECONDS[index] for index in batch) * len(batch) <= limits.max_seconds


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("per_step", [1, 3, 8])
@pytest.mark.parametrize("batching", ["bucketed", "bucketed_steps", "random"])
def test_an_epoch_has_every_clip(batching: Batching, limits: BatchLimits, per_step: int) -> None:
    steps, repeated = training_steps(CLIPS, limits, per_step, 1, 0, batching)
    assert all(len(step) == per_step for step in steps)
    check_limits([batch for step in steps for batch in step], limits)
    counts = Counter(flat(steps))
    assert set(counts) == set(range(len(SECONDS)))
    assert 0 <= repeated < per_step
    batches = Counter(tuple(batch) for step in steps for batch in step)
    assert sum(batches.values()) - len(batches) == repeated


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("per_step", [1, 3, 8])
def test_a_step_is_a_random_sample_as_large_as_fits(limits: BatchLimits, per_step: int) -> None:
    steps, _ = training_steps(CLIPS, limits, per_step, seed=1, epoch=0)
    for step, following in zip(steps, steps[1:], strict=False):
        lengths = [[SECONDS[index] for index in batch] for batch in step]
        assert [length for batch in lengths for length in batch] == sorted(sum(lengths, []))
        # Whichever clip of the next step it is, one of them comes next in the order, and has no room.
        clips = [index for batch in step for index in batch]
        fits = []
        for index in (index for batch in following for index in batch):
            batches = make_batches(sorted([*clips, index], key=SECONDS.__getitem__), CLIPS, limits)
            fits.append(len(batches) <= per_step)
        assert not all(fits)


def test_lengths_of_steps_and_padding() -> None:
    """`bucketed` steps are of like length, `bucketed_steps` have the least padding."""
    rng = random.Random(2)
    seconds = [min(12.0, rng.lognormvariate(1.6, 0.4)) for _ in range(6000)]  # as in CoVoST 2
    limits = BatchLimits(10, None)
    spread, padded = {}, {}
    for batching in ("bucketed", "bucketed_steps", "random"):
        steps, _ = training_steps(Sizes(seconds), limits, 8, 1, 0, batching)  # type: ignore[arg-type]
        means = [statistics.mean(seconds[index] for batch in step for index in batch) for step in steps[:-1]]
        spread[batching], padded[batching] = statistics.stdev(means), padding(steps, Sizes(seconds))
    one_clip = statistics.stdev(seconds)
    assert spread["bucketed"] == pytest.approx(one_clip / 80**0.5, rel=0.3)
    assert spread["random"] == pytest.approx(one_clip / 80**0.5, rel=0.3)
    assert spread["bucketed_steps"] > 0.9 * one_clip
    assert padded["bucketed_steps"] < 0.02 < padded["bucketed"] < 0.12 < 0.25 < padded["random"]


@pytest.mark.parametrize("batching", ["bucketed", "bucketed_steps", "random"])
@pytest.mark.parametrize("per_step", [1, 4])
def test_batches_limited_by_positions(batching: Batching, per_step: int) -> None:
    """Short clips of many words beside long ones of few: all three limits hold, each is reached, and no clip is lost.
    """
    positions = [RNG.randint(20, 300) for _ in SECONDS]
    limits = BatchLimits(4, 90.0, 1000)
    steps, _ = training_steps(Sizes(SECONDS, positions), limits, per_step, 1, 0, batching)
    batches = [batch for step in steps for batch in step]
    assert set(flat(steps)) == set(range(len(SECONDS)))
    fullest = [0.0, 0.0, 0.0]
    for batch in batches:
        used = (
            len(batch) / 4, len(batch) * max(SECONDS[i] for i in batch) / 90,
            len(batch) * max(positions[i] for i in batch) / 1000,
        )
        assert max(used) <= 1
        fullest = list(map(max, fullest, used))
    assert min(fullest) > 0.9


@pytest.mark.parametrize("batching", ["bucketed", "bucketed_steps", "random"])
@pytest.mark.parametrize("positions", [None, [RNG.randint(20, 300) for _ in SECONDS]], ids=["seconds", "positions"])
def test_what_was_said_before_is_audio_of_the_batch(batching: Batching, positions: list[int] | None) -> None:
    """Every third clip hears up to four earlier turns, which stand beside the clips and are padded with them."""
    turns = [[RNG.uniform(0.5, 29.0) for _ in range(RNG.randint(1, 4) if i % 3 == 0 else 0)] for i in range(501)]
    sizes = Sizes(SECONDS, positions, EarlierSound.of(turns))
    limits = BatchLimits(6, 150.0, None if positions is None else 1000)
    steps, _ = training_steps(sizes, limits, 3, 1, 0, batching)
    assert set(flat(steps)) == set(range(len(SECONDS)))
    used = sounds = padded = 0.0
    for batch in (batch for step in steps for batch in step):
        heard = [seconds for i in batch for seconds in (SECONDS[i], *turns[i])]
        together = max(heard) * len(heard)
        assert len(batch) <= 6 and (together <= 150 or len(batch) == 1)
        used, sounds, padded = max(used, together * (len(batch) > 1)), sounds + sum(heard), padded + together
    assert used > 140
    if positions is None:
        assert padding(steps, sizes) == pytest.approx(1 - sounds / padded)


def test_padding_of_batches_limited_by_positions() -> None:
    """On lengths as in CoVoST 2 at 12.5 vectors a second, in steps of eight batches: at most 8 %."""
    rng = random.Random(2)
    seconds = [min(12.0, rng.lognormvariate(1.6, 0.4)) for _ in range(6000)]
    positions = [round(20 + 12.5 * length + rng.uniform(2.0, 4.5) * length) for length in seconds]
    sizes = Sizes(seconds, positions)
    steps, _ = training_steps(sizes, BatchLimits(1000, None, 2000), 8, 1, 0)
    assert padding(steps, sizes) < 0.08


@pytest.mark.parametrize("limits", LIMITS)
def test_a_batch_is_as_full_as_it_can_be(limits: BatchLimits) -> None:
    order = list(range(len(SECONDS)))
    batches = make_batches(order, CLIPS, limits)
    assert [index for batch in batches for index in batch] == order
    check_limits(batches, limits)
    for batch, following in zip(batches, batches[1:], strict=False):
        more = [*batch, following[0]]
        too_many = len(more) > limits.batch_size
        too_long = limits.max_seconds is not None and max(SECONDS[i] for i in more) * len(more) > limits.max_seconds
        assert too_many or too_long


def test_clips_of_a_batch_are_of_similar_length() -> None:
    limits = BatchLimits(8, None)
    steps, _ = training_steps(Sizes(SECONDS * 3), limits, 1, 1, 0, "bucketed_steps")
    longest = [max(SECONDS[i % 501] for i in batch) * len(batch) for step in steps for batch in step]
    assert 3 * sum(SECONDS) / sum(longest) > 0.95
    assert len(SECONDS) * 3 > 2 * POOL * limits.batch_size, "one pool alone would not test their borders"


def test_every_epoch_is_another_mix_and_every_run_the_same() -> None:
    limits = BatchLimits(8, 60.0)
    first = training_steps(CLIPS, limits, 2, seed=1, epoch=0)
    assert training_steps(CLIPS, limits, 2, seed=1, epoch=0) == first
    others = [(1, 1), (2, 0), (11, 0), (1, 10)]  # 11 and 0, 1 and 10: two numbers, not their digits
    orders = [first[0], *[training_steps(CLIPS, limits, 2, seed=seed, epoch=epoch)[0] for seed, epoch in others]]
    assert len({str(order) for order in orders}) == 5
    # The mix differs, not only the order: with more clips than a pool sorts together.
    many = SECONDS * 3
    epochs = [training_steps(Sizes(many), BatchLimits(8, None), 1, 1, epoch, "bucketed_steps")[0] for epoch in (0, 1)]
    batches = [{frozenset(batch) for step in steps for batch in step} for steps in epochs]
    assert len(batches[0] & batches[1]) < 0.1 * len(batches[0])
    # Lengths come in no order: a step of short clips is as likely first as last.
    starts = [SECONDS[step[0][0]] for step in first[0]]
    assert starts != sorted(starts) and starts != sorted(starts, reverse=True)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("per_step", [1, 2, 3, 7])
def test_an_evaluation_has_every_clip_once_longest_first(limits: BatchLimits, per_step: int) -> None:
    steps = evaluation_steps(CLIPS, limits, per_step)
    batches = [batch for step in steps for batch in step]
    check_limits(batches, limits)
    assert sorted(flat(steps)) == list(range(len(SECONDS)))
    assert all(len(step) == per_step for step in steps[:-1])
    assert 1 <= len(steps[-1]) <= per_step
    durations = [SECONDS[index] for index in flat(steps)]
    assert durations == sorted(durations, reverse=True)
    # The batches do not depend on how many share a step.
    assert batches == [batch for step in evaluation_steps(CLIPS, limits, 1) for batch in step]


def test_fewer_clips_than_a_step_needs() -> None:
    steps, repeated = training_steps(Sizes([1.0, 2.0]), BatchLimits(1, None), 5, seed=0, epoch=0)
    assert len(steps) == 1 and repeated == 3
    assert set(flat(steps)) == {0, 1}


def reference_steps(
    seconds: list[float], limits: BatchLimits, per_step: int, order: list[int]
) -> list[list[list[int]]]:
    """`bucketed`, clip by clip: a step takes one more as long as its batches hold all of them."""

    def batches_of(clips: list[int]) -> list[list[int]]:
        batches: list[list[int]] = []
        for index in sorted(clips, key=seconds.__getitem__):
            more = [*batches[-1], index] if batches else []
            longest = max((seconds[i] for i in more), default=0.0)
            if not more or len(more) > limits.batch_size or longest * len(more) > (limits.max_seconds or 1e9):
                batches.append([index])
            else:
                batches[-1] = more
        return batches

    steps = []
    while order:
        count = min(per_step, len(order))
        while count < len(order) and len(batches_of(order[: count + 1])) <= per_step:
            count += 1
        steps.append(batches_of(order[:count]))
        order = order[count:]
    return steps


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("per_step", [1, 4])
def test_steps_are_those_that_are_made_clip_by_clip(limits: BatchLimits, per_step: int) -> None:
    """In the order of Python's own generator, as in earlier versions: a run of theirs is resumed on the same steps."""
    order = list(range(len(SECONDS)))
    random.Random("1:0").shuffle(order)
    steps, _ = training_steps(CLIPS, limits, per_step, seed=1, epoch=0)
    expected = reference_steps(SECONDS, limits, per_step, order)
    assert len(steps) == len(expected)
    for step, clips in list(zip(steps, expected, strict=True))[:-1]:
        assert [index for batch in step for index in batch] == [index for batch in clips for index in batch]
        # Where they are fewer, the largest ones are halved.
        assert len(clips) < per_step or step == clips
