"""A transcript in the formats of the OpenAI audio API."""

from __future__ import annotations

import math
from collections.abc import Set

from fastapi import Response
from fastapi.responses import JSONResponse, PlainTextResponse

from speechllm_plugin.recordings.formats import one_line, parts, render
from speechllm_plugin.recordings.transcript import Transcript
from speechllm_plugin.text.repetition import compression_ratio
from speechllm_tools.serve.events import event

_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


def usage(seconds: float) -> dict[str, object]:
    return {"type": "duration", "seconds": math.ceil(seconds)}


def answer(
    transcript: Transcript,
    response_format: str,
    granularities: Set[str],
    *,
    task: str,
    language: str,
    temperature: float,
) -> Response:
    if response_format in _TYPES:
        return PlainTextResponse(render(transcript, response_format), media_type=_TYPES[response_format])
    text = one_line(transcript.text)
    if response_format == "json":
        return JSONResponse({"text": text, "usage": usage(transcript.seconds)})
    values: dict[str, object] = {
        "task": task,
        "language": language,
        "duration": round(transcript.seconds, 3),
        "text": text,
        "usage": usage(transcript.seconds),
    }
    if "segment" in granularities:
        values["segments"] = [
            {
                "id": number,
                "seek": round(100 * span.start),
                "start": round(span.start, 3),
                "end": round(span.end, 3),
                "text": one_line(span.text),
                "tokens": [],
                "temperature": temperature,
                "compression_ratio": round(compression_ratio(span.text), 3),
                # These are not measured, but clients expect numbers.
                "avg_logprob": 0.0,
                "no_speech_prob": 0.0,
            }
            for number, span in enumerate(parts(transcript, "segments"))
        ]
    if "word" in granularities:
        values["words"] = [
            {"word": span.text, "start": round(span.start, 3), "end": round(span.end, 3)}
            for span in (transcript.words or ())
        ]
    return JSONResponse(values)


def delta(text: str) -> bytes:
    return event({"type": "transcript.text.delta", "delta": text})


def done(transcript: Transcript) -> bytes:
    text = one_line(transcript.text)
    return event({"type": "transcript.text.done", "text": text, "usage": usage(transcript.seconds)})
