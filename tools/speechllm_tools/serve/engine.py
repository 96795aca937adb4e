"""One thread that decodes what is waiting: items join those that are being decoded, between two steps, and each result
is given as soon as it is there."""

from __future__ import annotations

import logging
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from speechllm_plugin.errors import ServiceError, UserError

log = logging.getLogger(__name__)

_GATHER = 0.01
"""Seconds that a batch which is not full waits for others: requests that were sent together do not arrive together."""
_LONGEST_GATHER = 0.1
"""Seconds that it waits at most while others are known to come."""
_JOINING = 4
"""Between two steps one place in so many is filled at most: those that are decoded wait while prompts are read."""


class Batch(Protocol):
    """What decodes items together, in whatever ways."""

    @property
    def joins(self) -> bool:
        """Whether an item that is added now begins at once."""

    @abstractmethod
    def add(self, items: Sequence[Any], way: Any) -> list[int]:
        """After an error all is as it was.

        :returns: a number for each item.
        """

    @abstractmethod
    def drop(self, number: int) -> None:
        """Ends an item without a result."""

    @abstractmethod
    def step(self) -> Mapping[int, Any]:
        """:returns: the results that are there, by the numbers of their items."""


@dataclass(eq=False)
class _Job:
    item: Any
    way: Hashable
    begin: Callable[[], Batch]
    result: Future[Any] = field(default_factory=Future)
    """Not running before it is there: until then its client can cancel it."""

    def give(self, result: object) -> None:
        if self.result.set_running_or_notify_cancel():
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        if isinstance(error, ServiceError):
            log.error("%s", error)
        elif not isinstance(error, UserError):
            log.error("A clip cannot be decoded (%s).", self.way, exc_info=error)
        if self.result.set_running_or_notify_cancel():
            # Its frames hold the memory of what has failed.
            self.result.set_exception(error.with_traceback(None))


class Engine:
    def __init__(self, batch_size: int, watch: Callable[[int], None] = lambda size: None) -> None:
        """
        :param watch: given the number of items that are decoded, at each step.
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

    def submit(self, item: Any, way: Hashable, begin: Callable[[], Batch]) -> Future[Any]:
        """The result to come. One that is cancelled leaves its place.

        :param way: how the item is to be decoded; equal ones are added together.
        :param begin: a batch without items as yet. Those of one `begin` are decoded together.
        """
        job = _Job(item, way, begin)
        with self._changed:
            if self._is_ending:
                raise RuntimeError("the engine has ended")
            self._waiting.append(job)
            self._changed.notify()
        job.result.add_done_callback(lambda result: self._leave(job) if result.cancelled() else None)
        return job.result

    def _leave(self, job: _Job) -> None:
        """The sound of what nobody waits for takes no memory."""
        with self._changed, suppress(ValueError):
            self._waiting.remove(job)

    def end(self) -> None:
        """Returns when all that is waiting has been decoded."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (begin := self._next()) is not None:
            _Running(begin, self._batch_size, self._take, self._watch).run()

    def _next(self) -> Callable[[], Batch] | None:
        """The batch of the item that waits longest; None when the engine has ended."""
        with self._changed:
            while True:
                # Whoever waits may leave while others are waited for.
                if self._waiting:
                    self._gather()
                if self._waiting:
                    return self._waiting[0].begin
                if self._is_ending:
                    return None
                self._changed.wait()

    def _gather(self) -> None:
        """Waits for more, where that is worth it. With the lock held."""
        start = time.monotonic()
        while len(self._waiting) < self._batch_size and not self._is_ending:
            passed = time.monotonic() - start
            if passed >= (_LONGEST_GATHER if self._coming else _GATHER):
                return
            self._changed.wait(_GATHER)

    def _take(self, begin: Callable[[], Batch], most: int) -> tuple[list[_Job], bool]:
        """
        :returns: the items for a batch that have waited longest, and whether others wait for a batch of their own.
        """
        with self._changed:
            taken: list[_Job] = []
            left: deque[_Job] = deque()
            for job in self._waiting:
                if job.result.cancelled():
                    continue
                (taken if job.begin == begin and len(taken) < most else left).append(job)
            self._waiting = left
            return taken, any(job.begin != begin for job in left)


class _Running:
    """The items of a batch from its first step to its last."""

    def __init__(
        self,
        begin: Callable[[], Batch],
        size: int,
        take: Callable[[Callable[[], Batch], int], tuple[list[_Job], bool]],
        watch: Callable[[int], None],
    ) -> None:
        self._begin, self._size, self._take, self._watch = begin, size, take, watch
        self._jobs: dict[int, _Job] = {}
        self._later: list[list[_Job]] = []
        """For which there was no room beside the others, perhaps: each group is decoded by itself."""
        self._guests = 0
        """Items that joined while others waited for the end of this batch."""

    def run(self) -> None:
        """Until it is empty."""
        new, _ = self._take(self._begin, self._size)
        self._decode(new, is_joined=True)

    def _decode(self, new: Sequence[_Job], *, is_joined: bool) -> None:
        """
        :param is_joined: whether others that wait may join.
        """
        try:
            self._batch = self._begin()
        except Exception as error:
            for job in new:
                job.fail(error)
            return
        self._add(new)
        while self._jobs:
            self._watch(len(self._jobs))
            try:
                for number, result in self._batch.step().items():
                    self._jobs.pop(number).give(result)
                self._drop()
            except Exception as error:
                self._recover(error)
                break
            if is_joined:
                self._join()
        del self._batch  # its memory is for those that come now
        later, self._later = self._later, []
        for jobs in later:
            self._decode([job for job in jobs if not job.result.cancelled()], is_joined=False)

    def _drop(self) -> None:
        for number in [number for number, job in self._jobs.items() if job.result.cancelled()]:
            del self._jobs[number]
            self._batch.drop(number)

    def _join(self) -> None:
        """Gives free places to some that wait, unless that would make others wait for ever."""
        free = min(self._size - len(self._jobs), max(1, self._size // _JOINING))
        if not self._jobs or free == 0 or not self._batch.joins or self._later or self._guests >= self._size:
            return
        new, others_wait = self._take(self._begin, free)
        self._guests = self._guests + len(new) if others_wait else 0
        self._add(new)

    def _add(self, new: Sequence[_Job]) -> None:
        for way in dict.fromkeys(job.way for job in new):
            self._add_alike([job for job in new if job.way == way], way)

    def _add_alike(self, jobs: Sequence[_Job], way: Hashable) -> None:
        try:
            numbers = self._batch.add([job.item for job in jobs], way)
        except Exception as error:
            if len(jobs) == 1:
                if self._jobs and not isinstance(error, UserError):
                    self._later.append(list(jobs))
                else:
                    jobs[0].fail(error)
                return
        else:
            self._jobs.update(zip(numbers, jobs, strict=True))
            return
        # Behind the handler: an error holds the memory of what has failed.
        # A clip that cannot be read does not cost its neighbours.
        for job in jobs:
            self._add_alike([job], way)

    def _recover(self, error: Exception) -> None:
        """An item that cannot be decoded does not cost its neighbours: each half of them is decoded by itself."""
        jobs, self._jobs = list(self._jobs.values()), {}
        # A service that fails one fails all, and each would wait for that again.
        if len(jobs) == 1 or isinstance(error, ServiceError):
            for job in jobs:
                job.fail(error)
            return
        middle = len(jobs) // 2
        self._later = [jobs[:middle], jobs[middle:], *self._later]
