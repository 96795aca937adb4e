"""Server-sent events, and the detection of clients that leave."""

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
"""Seconds without an event after which a stream sends a ping."""
_PING = b": ping\n\n"
"""An SSE comment, which keeps the connection open and which clients do not show."""
END = b"data: [DONE]\n\n"


def event(values: Mapping[str, object]) -> bytes:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n".encode()


def streamed(
    events: AsyncIterator[bytes], request: Request, stack: ExitStack, metrics: Metrics
) -> StreamingResponse:
    """
    :param stack: closed when the stream has ended or its client has left.
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
        # Nothing may be awaited here, because the task may already be cancelled when a client leaves.
        gone.cancel()
        if step is not None:
            step.cancel()
        stack.close()
        metrics.requests.labels(status).inc()


async def left(request: Request) -> None:
    """Returns when the client has closed the connection; call it once the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def unless_left(work: asyncio.Future, request: Request) -> bool:
    """Waits for the work, and cancels it if the client leaves.

    :returns: whether the work was done.
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
