"""`/v1/chat/completions`: questions about speech, in the shapes of OpenAI's chat API."""

from __future__ import annotations

import asyncio
import io
import math
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.reading import Named
from speechllm_plugin.recordings.hearing import Hearing
from speechllm_tools.serve.chat_fields import ChatFields, read_chat
from speechllm_tools.serve.events import event, streamed, unless_left
from speechllm_tools.serve.refusals import LEFT, Refusal
from speechllm_tools.serve.service import Running, System
from speechllm_tools.serve.upload import check_type, saved
from speechllm_tools.serve.ways import Answer, Question
from speechllm_tools.serve.work import pieces_of


async def respond(running: Running, request: Request, stack: ExitStack) -> Response:
    """
    :param stack: releases what the request holds once the answer has been sent.
    """
    service = running.service
    check_type(request, "application/json")
    fields = await asyncio.to_thread(read_chat, await request.body())
    system = service.system(fields.model)
    heard: list[Named] = []
    spoken = 0.0
    with running.engine.expecting():
        for sound in fields.speech:
            heard.append(await asyncio.to_thread(_hear, sound, system, spoken, service.most_seconds))
            spoken += len(heard[-1].samples) / SAMPLE_RATE
    *earlier, clip = heard
    running.metrics.audio.inc(spoken)
    submitted = running.engine.submit(Question(clip, fields.asks, earlier), fields.way, system.begin)
    answer = asyncio.wrap_future(submitted)
    reply = _Reply(fields.model)
    if fields.stream:
        stack.callback(answer.cancel)
        return streamed(reply.chunks(answer, fields), request, stack, running.metrics)
    if not await unless_left(answer, request):
        return Response(status_code=LEFT)
    return JSONResponse(reply.whole(answer.result()))


def _hear(sound: bytes, system: System, before: float, most: float) -> Named:
    """
    :param before: seconds of speech in earlier turns.
    :param most: seconds that all turns may have together.
    :raises Refusal: it cannot be decoded, or all turns are longer than that.
    :raises UserError: it is longer than a turn may be.
    """
    with saved(io.BytesIO(sound), "input_audio") as source:
        hearing = Hearing(source, math.inf, system.cut, most=min(system.window, most - before))
        try:
            (piece,) = pieces_of(hearing)
        except UserError as error:
            if before == 0 or most - before >= system.window:
                raise
            seconds = before + max(hearing.stated, hearing.seconds)
            raise Refusal(
                400,
                f"messages: found {seconds:.1f} s of speech or more in all turns, expected at most {most:g} s",
                param="messages",
            ) from error
    return Named("input_audio", piece.samples)


class _Reply:
    """One answer in the API's shapes, whole or as a stream."""

    def __init__(self, model: str) -> None:
        self._base = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, answer: Answer) -> dict[str, object]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": _finish(answer), "logprobs": None}
        return {**self._base, "object": "chat.completion", "choices": [choice], "usage": _usage(answer)}

    async def chunks(self, answer: asyncio.Future[Answer], fields: ChatFields) -> AsyncIterator[bytes]:
        yield self._chunk({"role": "assistant", "content": ""})
        found = await answer
        # As one delta: until a text has ended, half precision may still change its last words.
        yield self._chunk({"content": found.text})
        yield self._chunk({}, _finish(found))
        if fields.stream_usage:
            yield event({**self._base, "object": "chat.completion.chunk", "choices": [], "usage": _usage(found)})

    def _chunk(self, delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return event({**self._base, "object": "chat.completion.chunk", "choices": [choice]})


def _finish(answer: Answer) -> str:
    return "length" if answer.cut else "stop"


def _usage(answer: Answer) -> dict[str, object]:
    prompt = answer.prompt_tokens + answer.speech_vectors
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer.tokens,
        "total_tokens": prompt + answer.tokens,
        "prompt_tokens_details": {"audio_tokens": answer.speech_vectors, "cached_tokens": 0},
    }
