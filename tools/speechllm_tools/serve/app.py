"""The paths of the server."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from speechllm_plugin.errors import UserError
from speechllm_plugin.recordings.cutting import CutConfig
from speechllm_plugin.recordings.hearing import Hearing
from speechllm_tools.serve import answers
from speechllm_tools.serve.engine import Decode, Engine, Way
from speechllm_tools.serve.fields import Fields, read_fields
from speechllm_tools.serve.refusals import Refusal, as_refusal, install_handlers
from speechllm_tools.serve.upload import BodyLimit, saved
from speechllm_tools.serve.work import Work, unless_left

_PING_EVERY = 15.0
"""Seconds of silence after which a stream says that it is alive."""
_LEFT = 499
"""The status in the metrics of a request whose client did not wait for the answer."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What is served, and its limits."""

    decode: Decode
    check_languages: Callable[[str, str | None], None]
    """Raises `UserError` for a language that the system's prompt cannot name."""
    tells_times: bool
    """Whether words have times."""
    names: tuple[str, ...]
    """Of the model; the first is its own, clients may use any."""
    whole: float
    """Seconds up to which a recording is one piece."""
    cut: CutConfig
    source_lang: str = "en"
    batch_size: int = 8
    most_bytes: int = 100_000_000
    most_seconds: float = 4 * 3600.0
    most_requests: int = 64
    """That are worked on or wait; more are refused."""
    api_key: str | None = None
    started: float = field(default_factory=time.time)


class _Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("speechllm_requests", "Requests for a text, by status", ["status"], registry=registry)
        self.audio = Counter("speechllm_audio_seconds", "Audio that was transcribed", registry=registry)
        self.under_way = Gauge("speechllm_requests_under_way", "Requests that are worked on or wait", registry=registry)
        self.waiting = Gauge("speechllm_pieces_waiting", "Pieces of audio that no batch has yet", registry=registry)
        self.batches = Histogram(
            "speechllm_batch_size", "Pieces decoded together", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.seconds = Histogram(
            "speechllm_request_seconds",
            "From a request to the end of its answer",
            buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
            registry=registry,
        )


def create_app(service: Service) -> FastAPI:
    metrics = _Metrics()
    engines: list[Engine] = []
    under_way = 0

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engines.append(Engine(service.decode, service.batch_size, metrics.batches.observe))
        metrics.waiting.set_function(lambda: engines[-1].waiting)
        yield
        await asyncio.to_thread(engines.pop().end)

    async def check_key(request: Request) -> None:
        if service.api_key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, service.api_key.encode()):
            raise Refusal(
                401,
                "found no valid key in the header Authorization, expected `Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimit, most=service.most_bytes)
    install_handlers(app)
    protected = [Depends(check_key)]

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models", dependencies=protected)
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [_model(name) for name in service.names]}

    @app.get("/v1/models/{name}", dependencies=protected)
    async def model(name: str) -> dict[str, object]:
        check_model(name)
        return _model(name)

    def _model(name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": int(service.started), "owned_by": "speechllm-plugin"}

    def check_model(name: str) -> None:
        if name not in service.names:
            raise Refusal(
                404,
                f"model: found {name[:80]!r}, expected {' or '.join(service.names)}",
                param="model",
                code="model_not_found",
            )

    @app.post("/v1/audio/transcriptions", dependencies=protected)
    async def transcriptions(request: Request) -> Response:
        return await counted(request, "transcribe")

    @app.post("/v1/audio/translations", dependencies=protected)
    async def translations(request: Request) -> Response:
        return await counted(request, "translate")

    async def counted(request: Request, task: str) -> Response:
        """`respond`, with a place among those that are under way: it is given back when the answer has been sent."""
        nonlocal under_way
        if under_way >= service.most_requests:
            metrics.requests.labels(429).inc()
            raise Refusal(
                429,
                f"found {under_way} requests under way, expected fewer than {service.most_requests}: come back later",
                code="rate_limit_exceeded",
                headers={"Retry-After": "2"},
            )
        start = time.monotonic()
        under_way += 1
        metrics.under_way.set(under_way)
        stack = ExitStack()

        def leave() -> None:
            nonlocal under_way
            under_way -= 1
            metrics.under_way.set(under_way)
            metrics.seconds.observe(time.monotonic() - start)

        stack.callback(leave)
        try:
            response = await respond(request, task, stack)
        except ClientDisconnect:
            response = Response(status_code=_LEFT)
        except BaseException as error:
            stack.close()
            status = as_refusal(error).status if isinstance(error, Exception) else _LEFT
            metrics.requests.labels(getattr(error, "status_code", status)).inc()
            raise
        if not isinstance(response, StreamingResponse):
            stack.close()
            metrics.requests.labels(response.status_code).inc()
        return response

    async def respond(request: Request, task: str, stack: ExitStack) -> Response:
        """
        :param stack: what has to be given back behind the answer.
        """
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise Refusal(
                400,
                f"found a body of type {request.headers.get('content-type', 'none')[:80]!r}, expected "
                "multipart/form-data",
            )
        form = await request.form(max_files=2, max_fields=64)
        for value in form.values():
            if isinstance(value, UploadFile):
                stack.callback(value.file.close)
        fields = read_fields(form)
        check_model(fields.model)
        way = way_of(fields, task)
        source = await asyncio.to_thread(stack.enter_context, saved(fields.file.file))
        hearing = Hearing(source, service.whole, service.cut, most=service.most_seconds)
        work = Work(hearing, way, engines[-1], 2 * service.batch_size)
        if fields.stream:
            await work.begin()
            return StreamingResponse(
                stream(work, stack, request),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            )
        task_of_work = asyncio.create_task(work.whole())
        if not await unless_left(task_of_work, asyncio.create_task(left(request))):
            return Response(status_code=_LEFT)
        transcript = task_of_work.result()
        metrics.audio.inc(transcript.seconds)
        return answers.answer(
            transcript,
            fields.response_format,
            fields.granularities,
            task=task,
            language=way.source_lang,
            temperature=way.temperature or 0.0,
        )

    def way_of(fields: Fields, task: str) -> Way:
        source = fields.language or service.source_lang
        target = fields.target_language or ("en" if task == "translate" else None)
        try:
            service.check_languages(source, target)
        except UserError as error:
            raise Refusal(400, str(error), param="language") from None
        if "word" in fields.granularities and not service.tells_times:
            raise Refusal(
                400,
                "timestamp_granularities: found 'word', but this system cannot tell when words were "
                "said, expected 'segment'",
                param="timestamp_granularities",
            )
        timed = service.tells_times and fields.response_format in ("srt", "vtt", "verbose_json")
        return Way(source, target, timed, fields.temperature)

    async def stream(work: Work, stack: ExitStack, request: Request) -> AsyncIterator[bytes]:
        """Server-sent events; a comment now and then keeps the connection open."""
        status, sent = _LEFT, ""
        grown = work.grow()
        gone = asyncio.create_task(left(request))
        step: asyncio.Task | None = None
        try:
            while not gone.done():
                if step is None:
                    step = asyncio.create_task(anext(grown, None))
                await asyncio.wait({step, gone}, timeout=_PING_EVERY, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    yield answers.PING
                    continue
                text, step = step.result(), None
                if text is None:
                    assert work.transcript is not None
                    metrics.audio.inc(work.transcript.seconds)
                    status = 200
                    yield answers.done(work.transcript)
                    return
                if len(text) > len(sent):
                    yield answers.delta(text[len(sent) :])
                    sent = text
        except Exception as error:
            refusal = as_refusal(error)
            status = refusal.status
            yield answers.event(refusal.body())
        finally:
            # Nothing is awaited here: whoever leaves may have cancelled this already.
            gone.cancel()
            if step is not None:
                step.cancel()
            work.leave()
            stack.close()
            metrics.requests.labels(status).inc()

    return app


async def left(request: Request) -> None:
    """Ends when the client has closed the connection. The body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
