"""One request: its recording's pieces to the engine, and their texts put together as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from speechllm_plugin.datasets.audio import AudioError
from speechllm_plugin.inference.reading import Named
from speechllm_plugin.recordings.cutting import Piece
from speechllm_plugin.recordings.formats import one_line
from speechllm_plugin.recordings.hearing import Hearing
from speechllm_plugin.recordings.transcribing import place
from speechllm_plugin.recordings.transcript import PieceText, Transcript, join
from speechllm_plugin.text.scripts import has_spaces
from speechllm_tools.serve.engine import Batch, Engine
from speechllm_tools.serve.refusals import Refusal
from speechllm_tools.serve.upload import is_sound
from speechllm_tools.serve.ways import Transcribing


class Work:
    """The texts of one recording."""

    def __init__(
        self, hearing: Hearing, way: Transcribing, begin: Callable[[], Batch], engine: Engine, ahead: int
    ) -> None:
        """
        :param begin: see `System`.
        :param ahead: pieces that may wait for their texts: more would fill the memory.
        """
        self._hearing, self._way, self._begin, self._engine, self._ahead = hearing, way, begin, engine, ahead
        self._spaces = has_spaces(way.target_lang or way.source_lang)
        self._pieces = pieces_of(hearing)
        self._first: Piece | None = None
        self._waiting: deque[tuple[Piece, asyncio.Future]] = deque()
        self._texts: list[PieceText] = []
        self.transcript: Transcript | None = None
        """Of the whole recording, once `grow` has ended."""

    async def begin(self) -> None:
        """Cuts the first piece: whether the file can be decoded shows before an answer has begun.

        :raises Refusal: it cannot.
        """
        with self._engine.expecting():
            self._first = await asyncio.to_thread(self._next)

    async def grow(self, *, is_read: bool = False) -> AsyncIterator[str]:
        """What can be said so far, each time longer; at last the whole text. After `begin`.

        :param is_read: whether somebody reads along: the first piece then has no neighbours of its own recording, which
            would take their share of its time.
        :raises Refusal: the file cannot be decoded.
        """
        waiting = self._waiting
        piece, has_more = self._first, True
        try:
            while has_more or waiting:
                ahead = 1 if is_read and not self._texts else self._ahead
                if has_more and len(waiting) < ahead:
                    if piece is None:
                        has_more = False
                    else:
                        text = self._engine.submit(Named("file", piece.samples), self._way, self._begin)
                        waiting.append((piece, asyncio.wrap_future(text)))
                        piece = await asyncio.to_thread(self._next)
                    # A text is taken when it is there, or when no piece can be cut.
                    if not waiting or (has_more and len(waiting) < ahead and not waiting[0][1].done()):
                        continue
                done, future = waiting.popleft()
                self._texts.append(place(done, await future))
                # The end of a text may change when the next piece shares some of its sound.
                following = waiting[0][0] if waiting else piece
                if following is not None and following.shared == 0:
                    yield one_line(self._joined().text)
        finally:
            self.leave()
        self.transcript = self._joined()
        yield one_line(self.transcript.text)

    def leave(self) -> None:
        """Nobody waits for the texts any more: what has none yet leaves its place."""
        for _, future in self._waiting:
            future.cancel()

    def _joined(self) -> Transcript:
        return join(self._texts, self._hearing.seconds, spaces=self._spaces)

    def _next(self) -> Piece | None:
        return next(self._pieces, None)

    async def whole(self) -> Transcript:
        await self.begin()
        async for _ in self.grow():
            pass
        assert self.transcript is not None
        return self.transcript


def pieces_of(hearing: Hearing) -> Iterator[Piece]:
    """
    :raises Refusal: the file cannot be decoded.
    """
    try:
        yield from hearing
    except AudioError as error:
        message = str(error)
        status = 400 if is_sound(hearing.source.path) else 415
        raise Refusal(status, message, param=hearing.source.name) from None
