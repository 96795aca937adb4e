"""Refusals in the shape that clients show to their users: `error.message`."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from speechllm_plugin.errors import ServiceError, UserError

LEFT = 499
"""Status in the metrics for a request whose client left before the answer."""


class Refusal(Exception):
    """What is wrong with a request. Clients send the whole upload again after 408, 409, 429 and 5xx only."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """
        :param message: one line.
        :param param: the field of the request that is wrong.
        """
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self) -> dict[str, object]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": " ".join(str(self).split()), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=self.headers)


def as_refusal(error: Exception) -> Refusal:
    """The refusal that a client gets for an error during its request."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UserError):
        return Refusal(400, str(error))
    if isinstance(error, ServiceError):
        return Refusal(503, "the program that writes the texts does not answer; the server's log tells more")
    # No path and no line of code leaves the machine; the log has both.
    return Refusal(500, "the server failed on this request; its log tells more")


def install_handlers(app: FastAPI) -> None:
    """Gives the framework's own refusals the same shape."""

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        return as_refusal(error).response()

    async def refuse_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        found = f"{request.method} {request.url.path}"
        expected = {
            404: "expected one of the paths under /v1, /, /health or /metrics",
            405: f"expected another method ({(error.headers or {}).get('allow', 'GET or POST')})",
        }
        detail = expected.get(error.status_code, str(error.detail))
        headers = dict(error.headers) if error.headers else None
        return Refusal(error.status_code, f"{found}: {detail}", headers=headers).response()

    async def refuse_values(request: Request, error: Exception) -> JSONResponse:
        return Refusal(400, f"{request.method} {request.url.path}: found a request that cannot be read").response()

    app.add_exception_handler(Refusal, refuse)
    app.add_exception_handler(UserError, refuse)
    app.add_exception_handler(ServiceError, refuse)
    app.add_exception_handler(HTTPException, refuse_http)
    app.add_exception_handler(RequestValidationError, refuse_values)
    app.add_exception_handler(Exception, refuse)
