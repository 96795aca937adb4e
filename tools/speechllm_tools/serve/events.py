"""Server-sent events, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, suppress

from fastapi import Request
from fastapi.responses import StreamingResponse

from speechllm_tools.serve.counters import Metrics
from speechllm_tools.serve.refusals import LEFT, as_refusal

_PING_EVERY = 15.0
"""Seconds of silence after which a stream says that it is alive."""
_PING = b": ping\n\n"
"""A comment: it keeps a connection open, and clients do not show it."""
END = b"data: [DONE]\n\n"


def event(values: Mapping[str, object]) -> bytes:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n".encode()


def streamed(
    events: AsyncIterator[bytes], request: Request, stack: ExitStack, metrics: Metrics
) -> StreamingResponse:
    """
    :param stack: what is given back when the stream has ended, or its client has left.
    """
    return StreamingResponse(
        _events(events, request, stack, metrics),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(
    events: AsyncIterator[bytes], request: Request, stack: ExitStack, metrics: Metrics
) -> AsyncIterator[bytes]:
    status = LEFT
    gone = asyncio.create_task(left(request))
    step: asyncio.Task | None = None
    try:
        while not gone.done():
            if step is None:
                step = asyncio.create_task(anext(events, None))
            await asyncio.wait({step, gone}, timeout=_PING_EVERY, return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                yield _PING
                continue
            found, step = step.result(), None
            if found is None:
                status = 200
                yield END
                return
            yield found
    except Exception as error:
        refusal = as_refusal(error)
        status = refusal.status
        yield event(refusal.body())
    finally:
        # Nothing is awaited here: whoever leaves may have cancelled this already.
        gone.cancel()
        if step is not None:
            step.cancel()
        stack.close()
        metrics.requests.labels(status).inc()


async def left(request: Request) -> None:
    """Ends when the client has closed the connection. The body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def unless_left(work: asyncio.Future, request: Request) -> bool:
    """Waits for the work, and gives it up when the client leaves.

    :returns: whether it was done.
    """
    gone = asyncio.create_task(left(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        gone.cancel()
        if not work.done():
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
