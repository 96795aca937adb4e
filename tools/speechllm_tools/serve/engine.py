"""One thread that decodes what is waiting, in batches: of one request or of several, as they come."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from speechllm_plugin.datasets.files import Named
from speechllm_plugin.errors import UserError
from speechllm_plugin.timed_text import TimedText

log = logging.getLogger(__name__)

_GATHER = 0.01
"""Seconds that a batch which is not full waits for others: requests that were sent together do not arrive together."""


@dataclass(frozen=True)
class Way:
    """How a clip is to be decoded. Clips of one way can be decoded together."""

    source_lang: str
    target_lang: str | None
    timed: bool
    temperature: float | None = None
    """None = as the system's run decodes."""


Decode = Callable[[Sequence[Named], Way], Sequence[TimedText | str]]


@dataclass(eq=False)
class _Clip:
    audio: Named
    way: Way
    text: Future[TimedText | str] = field(default_factory=Future)


class Engine:
    def __init__(self, decode: Decode, batch_size: int, watch: Callable[[int], None] = lambda size: None) -> None:
        """
        :param watch: given the size of each batch.
        """
        self._decode, self._batch_size, self._watch = decode, batch_size, watch
        self._waiting: deque[_Clip] = deque()
        self._changed = threading.Condition()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Clips that no batch has yet."""
        return len(self._waiting)

    def submit(self, audio: Named, way: Way) -> Future[TimedText | str]:
        """The text to come. One that is cancelled before its turn is not decoded."""
        clip = _Clip(audio, way)
        with self._changed:
            if self._is_ending:
                raise RuntimeError("the engine has ended")
            self._waiting.append(clip)
            self._changed.notify()
        return clip.text

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
                for clip, text in zip(batch, self._decode([c.audio for c in batch], batch[0].way), strict=True):
                    clip.text.set_result(text)
            except Exception as error:
                self._one_by_one(batch, error)

    def _next(self) -> list[_Clip]:
        """The clip that waits longest, with others of its way; none when the engine has ended."""
        with self._changed:
            while True:
                if not self._waiting:
                    if self._is_ending:
                        return []
                    self._changed.wait()
                    continue
                if len(self._waiting) < self._batch_size and not self._is_ending:
                    self._changed.wait(_GATHER)
                batch: list[_Clip] = []
                others: deque[_Clip] = deque()
                while self._waiting:
                    clip = self._waiting.popleft()
                    if len(batch) == self._batch_size or (batch and clip.way != batch[0].way):
                        others.append(clip)
                    # One whose client has left is not decoded.
                    elif clip.text.set_running_or_notify_cancel():
                        batch.append(clip)
                self._waiting = others
                if batch:
                    return batch

    def _one_by_one(self, batch: list[_Clip], error: Exception) -> None:
        """A clip that cannot be decoded does not cost its neighbours."""
        for clip in batch:
            if clip.text.done():
                continue
            if len(batch) > 1:
                try:
                    clip.text.set_result(self._decode([clip.audio], clip.way)[0])
                    continue
                except Exception as own:
                    error = own
            if not isinstance(error, UserError):
                log.error("A clip of %d samples cannot be decoded.", len(clip.audio.samples), exc_info=error)
            clip.text.set_exception(error)
