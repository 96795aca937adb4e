"""One thread that decodes what is waiting, in batches: of one request or of several, as they come."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from speechllm_plugin.errors import UserError

log = logging.getLogger(__name__)

_GATHER = 0.01
"""Seconds that a batch which is not full waits for others: requests that were sent together do not arrive together."""
_LONGEST_GATHER = 0.1
"""Seconds that it waits at most while others are known to come."""

Item = TypeVar("Item")
Way = TypeVar("Way", bound=Hashable)
Result = TypeVar("Result")


@dataclass(eq=False)
class _Job:
    item: Any
    way: Hashable
    decode: Callable[[Sequence[Any], Any], Sequence[Any]]
    result: Future[Any] = field(default_factory=Future)

    def is_alike(self, other: _Job) -> bool:
        """Whether both can be decoded together."""
        return (self.decode, self.way) == (other.decode, other.way)


class Engine:
    def __init__(self, batch_size: int, watch: Callable[[int], None] = lambda size: None) -> None:
        """
        :param watch: given the size of each batch.
        """
        self._batch_size, self._watch = batch_size, watch
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_ending = False
        self._coming = 0
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that no batch has yet."""
        return len(self._waiting)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """For the time in which an item to be submitted is made ready, so that a batch may wait for it."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1

    def submit(
        self, item: Item, way: Way, decode: Callable[[Sequence[Item], Way], Sequence[Result]]
    ) -> Future[Result]:
        """The result to come. One that is cancelled before its turn is not decoded.

        :param way: how the item is to be decoded: those of one `decode` and of equal ways are decoded together.
        """
        job = _Job(item, way, decode)
        with self._changed:
            if self._is_ending:
                raise RuntimeError("the engine has ended")
            self._waiting.append(job)
            self._changed.notify()
        return job.result

    def end(self) -> None:
        """Returns when all that is waiting has been decoded."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            self._watch(len(batch))
            try:
                results = batch[0].decode([job.item for job in batch], batch[0].way)
                for job, result in zip(batch, results, strict=True):
                    job.result.set_result(result)
            except Exception as error:
                self._one_by_one(batch, error)

    def _next(self) -> list[_Job]:
        """The item that waits longest, with others that are decoded alike; none when the engine has ended."""
        with self._changed:
            while True:
                if not self._waiting:
                    if self._is_ending:
                        return []
                    self._changed.wait()
                    continue
                self._gather()
                batch: list[_Job] = []
                others: deque[_Job] = deque()
                while self._waiting:
                    job = self._waiting.popleft()
                    if len(batch) == self._batch_size or (batch and not job.is_alike(batch[0])):
                        others.append(job)
                    # One whose client has left is not decoded.
                    elif job.result.set_running_or_notify_cancel():
                        batch.append(job)
                self._waiting = others
                if batch:
                    return batch

    def _gather(self) -> None:
        """Waits for more, where that is worth it. With the lock held."""
        start = time.monotonic()
        while len(self._waiting) < self._batch_size and not self._is_ending:
            passed = time.monotonic() - start
            if passed >= (_LONGEST_GATHER if self._coming else _GATHER):
                return
            self._changed.wait(_GATHER)

    def _one_by_one(self, batch: list[_Job], error: Exception) -> None:
        """An item that cannot be decoded does not cost its neighbours."""
        for job in batch:
            if job.result.done():
                continue
            if len(batch) > 1:
                try:
                    job.result.set_result(job.decode([job.item], job.way)[0])
                    continue
                except Exception as own:
                    error = own
            if not isinstance(error, UserError):
                log.error("A clip cannot be decoded (%s).", job.way, exc_info=error)
            job.result.set_exception(error)
