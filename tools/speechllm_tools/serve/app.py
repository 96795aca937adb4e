"""The paths of the server."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from speechllm_tools.serve import audio_requests, chat, page
from speechllm_tools.serve.places import Places
from speechllm_tools.serve.refusals import Refusal, install_handlers
from speechllm_tools.serve.service import Running, Service
from speechllm_tools.serve.upload import BodyLimit


def create_app(service: Service) -> FastAPI:
    running = Running(service)
    places = Places(service.most_requests, running.metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running.start()
        yield
        await asyncio.to_thread(running.end)

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
        return Response(generate_latest(running.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models", dependencies=protected)
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [_model(name) for system in service.systems for name in system.names]}

    @app.get("/v1/models/{name}", dependencies=protected)
    async def model(name: str) -> dict[str, object]:
        return _model(name)

    def _model(name: str) -> dict[str, object]:
        system = service.system(name)
        return {
            "id": name,
            "object": "model",
            "created": int(service.started),
            "owned_by": "speechllm-plugin",
            # The API has no such fields; the page needs them.
            "word_times": system.tells_times,
            "language": system.source_lang,
            "system": service.systems.index(system),
        }

    @app.post("/v1/audio/transcriptions", dependencies=protected)
    async def transcriptions(request: Request) -> Response:
        return await places.respond(lambda stack: audio_requests.respond(running, request, "transcribe", stack))

    @app.post("/v1/audio/translations", dependencies=protected)
    async def translations(request: Request) -> Response:
        return await places.respond(lambda stack: audio_requests.respond(running, request, "translate", stack))

    @app.post("/v1/chat/completions", dependencies=protected)
    async def completions(request: Request) -> Response:
        return await places.respond(lambda stack: chat.respond(running, request, stack))

    app.include_router(page.router())
    return app
