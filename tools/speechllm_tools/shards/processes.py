"""Maps shards in processes of this machine."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from typing import TypeVar

Shard = TypeVar("Shard")
Result = TypeVar("Result")
_PR_SET_PDEATHSIG = 1
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def map_in_processes(
    function: Callable[[Shard], Result], shards: Iterable[Shard], workers: int, *, gpus: bool
) -> Iterator[tuple[Shard, Result]]:
    """See `map_shards`."""
    # A fork shares the imported modules and starts at once. Only pyarrow's threads are lost in it, and only this
    # process uses pyarrow.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin,
        initargs=(context.Value("i", 0), visible_gpus() if gpus else ()),
    )  # fmt: skip
    pending: deque[tuple[Shard, Future[Result]]] = deque()
    try:
        for shard in shards:
            pending.append((shard, pool.submit(function, shard)))
            if len(pending) > workers + 2:
                yield _taken(pending)
        while pending:
            yield _taken(pending)
    except BrokenProcessPool:
        raise RuntimeError("a process was killed, perhaps for want of memory (fewer --workers take less)") from None
    finally:
        pool.shutdown(cancel_futures=True)


def visible_gpus() -> list[str]:
    """The name of each GPU for `CUDA_VISIBLE_DEVICES`; this call initialises no GPU."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get(_VISIBLE, "").split(",") if name]
    return named[:count] or [str(number) for number in range(count)]


def _taken(pending: deque[tuple[Shard, Future[Result]]]) -> tuple[Shard, Result]:
    shard, future = pending.popleft()
    return shard, future.result()


def _begin(counter: Synchronized[int], gpus: Sequence[str]) -> None:
    """Begins a process of the pool: it ends with the command, even a killed one, and sees one of `gpus`.

    The command alone answers Ctrl-C.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if gpus:
        with counter.get_lock():
            number = counter.value
            counter.value += 1
        os.environ[_VISIBLE] = gpus[number % len(gpus)]
