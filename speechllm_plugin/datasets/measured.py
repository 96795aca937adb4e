"""How long the clips of a split are, and which of them are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from speechllm_plugin.datasets.lengths import LengthPolicy
from speechllm_plugin.datasets.row_checks import check_n_frames
from speechllm_plugin.datasets.speech_text import Utterance
from speechllm_plugin.errors import UserError
from speechllm_plugin.log import log

_BLOCK = 256
"""Rows that a thread measures at a time."""
_THREADS = 16
"""Most of the time goes into waiting for the file system."""


def measure(
    utterances: Sequence[Utterance], policy: LengthPolicy, refuse: Callable[[Utterance, UserError], None]
) -> tuple[list[Utterance], list[float]]:
    """
    :param refuse: is told of each clip that cannot be used, and why.
    :returns: the others, with the seconds that are used of each.
    """
    check_n_frames(utterances)
    kept, seconds, cut = [], [], 0
    for utterance, length in zip(utterances, _lengths(utterances), strict=True):
        if isinstance(length, UserError):
            refuse(utterance, length)
            continue
        try:
            used = policy.used(length)
        except UserError as error:
            refuse(utterance, error)
            continue
        kept.append(utterance)
        seconds.append(used)
        cut += used != length
    if cut:
        log.warning(
            "{:,} clips are cut to {:g} s (dataset.too_long=cut), and their texts are not.", cut, policy.longest
        )
    return kept, seconds


def _lengths(utterances: Sequence[Utterance]) -> Iterator[float | UserError]:
    """Seconds of each, or why they are not known."""
    blocks = [utterances[start : start + _BLOCK] for start in range(0, len(utterances), _BLOCK)]
    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="lengths")
    try:
        for lengths in executor.map(_lengths_of_block, blocks):
            yield from lengths
    finally:
        executor.shutdown(cancel_futures=True)


def _lengths_of_block(utterances: Sequence[Utterance]) -> list[float | UserError]:
    lengths: list[float | UserError] = []
    for utterance in utterances:
        try:
            lengths.append(utterance.seconds())
        except UserError as error:
            lengths.append(error)
    return lengths
