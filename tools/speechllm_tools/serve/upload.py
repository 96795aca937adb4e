"""Uploads: limited while they arrive, recognised by their bytes, and never stored under a client's name."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import Request

from speechllm_plugin.datasets.audio import AudioSource, resolve
from speechllm_plugin.datasets.sound import kinds
from speechllm_plugin.datasets.sound.api import SoundError
from speechllm_plugin.datasets.sound.mp3_sound import streams_of_file
from speechllm_plugin.files.byte_range import ByteRange
from speechllm_plugin.files.remote import Location
from speechllm_tools.serve.refusals import Refusal

_FIELDS = 1 << 16
"""Bytes that a request may have beside its file."""
_STALLED = 60.0
"""Seconds that an upload may stall, because it holds a place and the server's shutdown waits for it."""


class BodyLimit:
    """Refuses a body that is too large: at once if its length is declared, otherwise when it exceeds the limit."""

    def __init__(self, app: Any, most: int) -> None:
        """
        :param most: largest size of a file in bytes.
        """
        self._app, self._most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._most + _FIELDS
        if scope["path"].endswith("/chat/completions"):
            # The body holds a file in base64 and the texts of a conversation.
            most = self._most * 4 // 3 + 16 * _FIELDS
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if lengths and lengths[0].isdigit() and int(lengths[0]) > most:
            await _too_large(int(lengths[0]), self._most).response()(scope, receive, send)
            return
        found, is_whole = 0, False

        async def counted() -> Any:
            nonlocal found, is_whole
            try:
                message = await (receive() if is_whole else asyncio.wait_for(receive(), _STALLED))
            except asyncio.TimeoutError:
                raise Refusal(
                    400,
                    f"found no more of the request for {_STALLED:g} s, expected all of it",
                    headers={"Connection": "close"},
                ) from None
            is_whole = message["type"] != "http.request" or not message.get("more_body", False)
            found += len(message.get("body", b""))
            if found > most:
                raise _too_large(found, self._most)
            return message

        await self._app(scope, counted, send)


def _too_large(found: int, most: int) -> Refusal:
    return Refusal(
        413,
        f"found a request of {found / 1e6:.1f} MB or more, expected at most {most / 1e6:g} MB",
        headers={"Connection": "close"},
    )


def check_type(request: Request, expected: str) -> None:
    """
    :raises Refusal: the body is of another type.
    """
    found = request.headers.get("content-type", "none")
    if not found.lower().startswith(expected):
        raise Refusal(400, f"found a body of type {found[:80]!r}, expected {expected}")


@contextmanager
def saved(upload: BinaryIO, field: str) -> Iterator[AudioSource]:
    """The upload as a temporary file with a name of our own.

    :param field: field of the request that held the upload.
    :raises Refusal: the upload is empty.
    """
    descriptor, name = tempfile.mkstemp(prefix="speechllm-upload-")
    try:
        with open(descriptor, "wb") as file:
            shutil.copyfileobj(upload, file, 1 << 20)
            size = file.tell()
        if size == 0:
            raise Refusal(400, f"{field}: found an empty file, expected some sound", param=field)
        source = resolve(name, Path())
        yield AudioSource(field, source.path, "file", 0, None)
    finally:
        os.unlink(name)


def is_sound(path: Location) -> bool:
    """Whether an uploaded file begins like some kind of sound, complete or not."""
    with open(str(path), "rb") as file:
        data = kinds.after_tags(ByteRange(file.fileno(), 0, os.fstat(file.fileno()).st_size))
        kind = kinds.kind_of(data)
        if kind != "mp3":
            return kind not in kinds.NO_SOUND
        # A file that no other kind recognises counts as mp3.
        try:
            return bool(streams_of_file(data, str(path)))
        except SoundError:
            return True
