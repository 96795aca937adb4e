"""One function over many shards in processes, with the results in order."""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import TypeVar

from speechllm_plugin.errors import UserError

Shard = TypeVar("Shard")
Result = TypeVar("Result")
Item = TypeVar("Item")
_PR_SET_PDEATHSIG = 1


def add_workers(parser: argparse.ArgumentParser) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--workers", metavar="N", type=int, default=cores, help=f"processes (default: one a core, here {cores})"
    )


def shards_of(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while shard := list(islice(iterator, size)):
        yield shard


def map_shards(
    function: Callable[[Shard], Result], shards: Iterable[Shard], workers: int
) -> Iterator[tuple[Shard, Result]]:
    """Each shard with its result. A few are under way at a time, so that memory stays flat.

    :param function: of a module, as other processes must find it.
    :param workers: of `--workers`.
    :raises UserError: there is to be no process; or as `function` raises it.
    """
    if workers < 1:
        raise UserError(f"--workers: found {workers}, expected at least 1")
    # A fork shares what is imported and starts at once. Threads that do not survive it are pyarrow's, in this process
    # alone.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)
    pending: deque[tuple[Shard, Future[Result]]] = deque()
    try:
        for shard in shards:
            pending.append((shard, pool.submit(function, shard)))
            if len(pending) > workers + 2:
                yield _taken(pending)
        while pending:
            yield _taken(pending)
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(pending: deque[tuple[Shard, Future[Result]]]) -> tuple[Shard, Result]:
    shard, future = pending.popleft()
    return shard, future.result()


def _follow_parent() -> None:
    """A process of the pool ends with the command, even if that is killed; Ctrl-C is the command's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
