"""How long the clips of a split are, and which of them are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Literal

import numpy as np
import numpy.typing as npt

from speechllm_plugin.datasets.earlier import earlier_seconds
from speechllm_plugin.datasets.lengths import LengthPolicy
from speechllm_plugin.datasets.manifest_row import seconds_of
from speechllm_plugin.datasets.plan import EarlierSound
from speechllm_plugin.datasets.utterances import Utterance, Utterances
from speechllm_plugin.errors import UserError
from speechllm_plugin.log import log

Seconds = npt.NDArray[np.float64]

_BLOCK = 256
"""Rows that a thread measures at a time."""
_THREADS = 16
"""Most of the time goes into waiting for the file system."""


def measure(
    utterances: Utterances,
    policy: LengthPolicy,
    refuse: Callable[[Utterance, UserError], None],
    on_error: Literal["raise", "skip"],
) -> tuple[Utterances, Seconds, EarlierSound | None]:
    """No header is read of a clip whose manifest states its length.

    :param refuse: is told of each clip that cannot be used, and why.
    :param on_error: what `refuse` does with a clip that cannot be read: after "raise" no further clip is looked at.
    :returns: the other clips, with the seconds that are used of each, and with what was said before them, if anything.
    """
    seconds = np.where(utterances.n_frames > 0, seconds_of(utterances.n_frames), np.nan)
    looked_at = np.isnan(seconds)
    looked_at[utterances.not_seen()] = True
    # NaN is on neither side of a limit.
    is_usual = (seconds >= policy.min_seconds) & (seconds <= (np.inf if policy.longest is None else policy.longest))
    lengths = _lengths(utterances.take(np.flatnonzero(looked_at)), ends=on_error == "raise")
    cut = 0
    for index in np.flatnonzero(looked_at | ~is_usual).tolist():
        length = next(lengths) if looked_at[index] else float(seconds[index])
        try:
            if isinstance(length, UserError):
                raise length
            seconds[index] = policy.used(length)
            cut += seconds[index] != length
        except UserError as error:
            refuse(utterances[index], error)
            seconds[index] = np.nan
    turns: dict[int, list[float]] = {}
    for index in utterances.hearing.tolist():
        try:
            turns[index] = earlier_seconds(utterances[index], policy.window)
        except UserError as error:
            refuse(utterances[index], error)
            seconds[index] = np.nan
    if cut:
        log.warning(
            "{:,} clips are cut to {:g} s (dataset.too_long=cut), and their texts are not.", cut, policy.longest
        )
    used = np.flatnonzero(~np.isnan(seconds))
    earlier = EarlierSound.of([turns.get(index, []) for index in used.tolist()]) if turns else None
    return utterances.take(used), seconds[used], earlier


def _lengths(utterances: Utterances, *, ends: bool) -> Iterator[float | UserError]:
    """Seconds of each, or why they are not known.

    :param ends: whether the first that is not known is the last that is asked for.
    """
    blocks = [utterances[start : start + _BLOCK] for start in range(0, len(utterances), _BLOCK)]
    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="lengths")
    has_ended = Event()
    try:
        for lengths in executor.map(partial(_lengths_of_block, ends=ends, has_ended=has_ended), blocks):
            yield from lengths
    finally:
        has_ended.set()
        executor.shutdown(cancel_futures=True)


def _lengths_of_block(utterances: Utterances, *, ends: bool, has_ended: Event) -> list[float | UserError]:
    lengths: list[float | UserError] = []
    for utterance in utterances:
        # On a server that does not answer, each file takes minutes.
        if has_ended.is_set() or (ends and lengths and isinstance(lengths[-1], UserError)):
            break
        try:
            lengths.append(utterance.seconds())
        except UserError as error:
            lengths.append(error)
    return lengths
