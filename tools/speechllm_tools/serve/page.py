"""The page at `/` for people: files of this package, which load nothing from any other machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter, Response

_FOLDER = Path(__file__).with_name("page")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # The browser must ask again, as files of two versions do not fit each other.
    "Cache-Control": "no-cache",
}


def router() -> APIRouter:
    router = APIRouter()
    for file in sorted(_FOLDER.iterdir()):
        path = "/" if file.name == "index.html" else f"/page/{file.name}"
        router.add_api_route(path, _answer(file), methods=["GET", "HEAD"])
    return router


def _answer(file: Path) -> Callable[[], Response]:
    content = file.read_bytes()

    def answer() -> Response:
        return Response(content, media_type=f"{_TYPES[file.suffix]}; charset=utf-8", headers=_HEADERS)

    return answer
