"""A vLLM server, by its HTTP. Imports no torch: whether there is one is told before a model is loaded."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from speechllm_plugin.errors import ClipError, ServiceError, UserError

DEFAULT_URL = "http://127.0.0.1:8001"
KEY = "VLLM_API_KEY"
"""The variable that vLLM itself reads the key of its clients from."""
START = "`speechllm vllm serve --checkpoint RUN`"
NAME = "speechllm-{}"
"""The name under which `speechllm vllm serve` offers an LLM, of the identity of its weights."""
_CONNECT = 10.0
"""Seconds to a connection, and to an answer that takes no work."""
_PROBE = 120.0
"""Seconds to an answer of a few tokens, beside others that are being written."""
_REFUSED = (400, 413, 422)
"""Statuses that are about one request: others may be answered."""
_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A text may take any time, as long as the server's machine is there: it is asked after so many seconds."""


@dataclass(frozen=True)
class ServedModel:
    """A name under which a server offers its LLM."""

    name: str
    root: str
    """The path or hub id that the server was started with."""
    positions: int
    """Most rows of a prompt and tokens of its text together."""

    @property
    def has_rules(self) -> bool:
        """Whether the server can keep texts from repeating themselves as we do: ours can."""
        return re.fullmatch(NAME.format("[0-9a-f]{16}"), self.name) is not None


@dataclass(frozen=True)
class VllmServer:
    url: str = DEFAULT_URL

    def __post_init__(self) -> None:
        """:raises UserError: the address is none of a server."""
        parts = urlsplit(self.url)
        try:
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # the port is no number
            valid = False
        if not valid:
            raise UserError(f"engine_url: found {self.url!r}, expected an address such as {DEFAULT_URL}")

    def __str__(self) -> str:
        return f"vLLM at {self.url}"

    def models(self) -> list[ServedModel]:
        """
        :raises UserError: there is no server, or it is not vLLM.
        """
        call = Call(self, "GET", "/v1/models", limit=_CONNECT)
        try:
            values = call.answer()
        except ServiceError as error:
            raise UserError(f"engine_url: {error}, expected one that {START} has started") from error
        try:
            return [ServedModel(str(one["id"]), str(one["root"]), int(one["max_model_len"])) for one in values["data"]]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"engine_url: found a server at {self.url} that is not vLLM, expected one that {START} "
                "has started") from None

    def complete(self, body: dict[str, Any], *, is_probe: bool = False) -> Call:
        """A request for a text, which `Call.answer` sends."""
        limit = _PROBE if is_probe else None
        return Call(self, "POST", "/v1/completions", json.dumps(body).encode(), limit=limit)


class Call:
    """A request, which another thread may end."""

    def __init__(
        self, server: VllmServer, method: str, path: str, body: bytes | None = None, *, limit: float | None = None
    ) -> None:
        """:param limit: seconds that the server may be silent; None = any time."""
        parts = urlsplit(server.url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        assert parts.hostname is not None
        self._server, self._method, self._body = server, method, body
        # OpenAI's clients take addresses that end in /v1.
        self._path = parts.path.rstrip("/").removesuffix("/v1") + path
        self._limit = limit
        self._connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=_CONNECT)
        self._is_ended = False

    def end(self) -> None:
        """Closes the connection, at which vLLM stops to write. `answer` then raises."""
        self._is_ended = True
        if (opened := self._connection.sock) is not None:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    def answer(self) -> Any:
        """
        :raises ClipError: the server refuses this request.
        :raises UserError: it refuses any.
        :raises ServiceError: it does not answer, fails, or ends.
        """
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        try:
            self._connection.connect()
            opened = self._connection.sock
            opened.settimeout(self._limit)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _ALIVE.items():
                if hasattr(socket, name):
                    opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            if self._is_ended:
                raise ConnectionAbortedError("ended before it was sent")
            self._connection.request(self._method, self._path, self._body, headers)
            response = self._connection.getresponse()
            status, text = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ServiceError(f"{self._server}: found no answer ({reason})") from error
        finally:
            self._connection.close()
        return self._read(status, text)

    def _read(self, status: int, text: bytes) -> Any:
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if status == 200 and isinstance(values, dict):
            return values
        message = _message(values) or text[:200].decode(errors="replace")
        found = f"found status {status} ({' '.join(message.split())[:300]})"
        if status in _REFUSED and self._method == "POST":
            # `speechllm serve` passes this on to its clients, whom the address does not concern.
            raise ClipError(f"vLLM: {found}, expected a request that it takes")
        if status == 401:
            raise UserError(f"{self._server}: {found}, expected its key in the variable {KEY}")
        raise ServiceError(f"{self._server}: {found}")


def _message(values: Any) -> str | None:
    error = values.get("error") if isinstance(values, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else None
