"""`/v1/audio/transcriptions` and `/v1/audio/translations`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack

from fastapi import Request, Response
from starlette.datastructures import UploadFile

from speechllm_plugin.errors import UserError
from speechllm_plugin.recordings.hearing import Hearing
from speechllm_tools.serve import transcript_formats
from speechllm_tools.serve.events import streamed, unless_left
from speechllm_tools.serve.fields import Fields, read_fields
from speechllm_tools.serve.refusals import LEFT, Refusal
from speechllm_tools.serve.service import Running, System
from speechllm_tools.serve.upload import check_type, saved
from speechllm_tools.serve.ways import Transcribing
from speechllm_tools.serve.work import Work


async def respond(running: Running, request: Request, task: str, stack: ExitStack) -> Response:
    """
    :param stack: releases what the request holds once the answer has been sent.
    """
    service, metrics = running.service, running.metrics
    check_type(request, "multipart/form-data")
    form = await request.form(max_files=2, max_fields=64)
    for value in form.values():
        if isinstance(value, UploadFile):
            stack.callback(value.file.close)
    fields = read_fields(form)
    system = service.system(fields.model)
    way = _way(system, fields, task)
    source = await asyncio.to_thread(stack.enter_context, saved(fields.file.file, "file"))
    hearing = Hearing(source, system.whole, system.cut, most=service.most_seconds)
    work = Work(hearing, way, system.begin, running.engine, 2 * service.batch_size)
    if fields.stream:
        await work.begin()
        stack.callback(work.leave)
        return streamed(_events(running, work), request, stack, metrics)
    whole = asyncio.create_task(work.whole())
    if not await unless_left(whole, request):
        return Response(status_code=LEFT)
    transcript = whole.result()
    metrics.audio.inc(transcript.seconds)
    return transcript_formats.answer(
        transcript,
        fields.response_format,
        fields.granularities,
        task=task,
        language=way.source_lang,
        temperature=way.temperature or 0.0,
    )


def _way(system: System, fields: Fields, task: str) -> Transcribing:
    source = fields.language or system.source_lang
    target = fields.target_language or ("en" if task == "translate" else None)
    try:
        system.check_languages(source, target)
    except UserError as error:
        raise Refusal(400, str(error), param="language") from None
    if "word" in fields.granularities and not system.tells_times:
        raise Refusal(
            400,
            "timestamp_granularities: found 'word', but this system cannot tell when words were "
            "said, expected 'segment'",
            param="timestamp_granularities",
        )
    timed = system.tells_times and fields.response_format in ("srt", "vtt", "verbose_json")
    return Transcribing(source, target, timed, fields.temperature)


async def _events(running: Running, work: Work) -> AsyncIterator[bytes]:
    sent = ""
    async for text in work.grow(is_read=True):
        if len(text) > len(sent):
            yield transcript_formats.delta(text[len(sent) :])
            sent = text
    assert work.transcript is not None
    running.metrics.audio.inc(work.transcript.seconds)
    yield transcript_formats.done(work.transcript)
