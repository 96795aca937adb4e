"""Places for requests: a service has a fixed number, and each request frees its place when it ends."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from speechllm_tools.serve.counters import Metrics
from speechllm_tools.serve.refusals import LEFT, Refusal, as_refusal

Respond = Callable[[ExitStack], Awaitable[Response]]
"""Answers a request; the stack releases what the request holds once the answer has been sent."""


class Places:
    def __init__(self, most: int, metrics: Metrics) -> None:
        self._most, self._metrics, self._taken = most, metrics, 0

    async def respond(self, respond: Respond) -> Response:
        """The answer of `respond`, counted by status; its place is free again when the answer has been sent.

        :raises Refusal: all places are taken.
        """
        requests = self._metrics.requests
        stack = self._take()
        try:
            response = await respond(stack)
        except ClientDisconnect:
            response = Response(status_code=LEFT)
        except BaseException as error:
            stack.close()
            status = as_refusal(error).status if isinstance(error, Exception) else LEFT
            requests.labels(getattr(error, "status_code", status)).inc()
            raise
        # A stream closes its stack and counts itself when it ends.
        if not isinstance(response, StreamingResponse):
            stack.close()
            requests.labels(response.status_code).inc()
        return response

    def _take(self) -> ExitStack:
        if self._taken >= self._most:
            self._metrics.requests.labels(429).inc()
            raise Refusal(
                429,
                f"found {self._taken} requests under way, expected fewer than {self._most}: come back later",
                code="rate_limit_exceeded",
                headers={"Retry-After": "2"},
            )
        start = time.monotonic()
        self._change(1)
        stack = ExitStack()
        stack.callback(lambda: self._metrics.seconds.observe(time.monotonic() - start))
        stack.callback(self._change, -1)
        return stack

    def _change(self, by: int) -> None:
        self._taken += by
        self._metrics.under_way.set(self._taken)
