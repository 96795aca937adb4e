"""Reads the fields of a request for a text; each refusal names its field."""

from __future__ import annotations

import math
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile

from speechllm_tools.serve.refusals import Refusal

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_STREAMED = ("json", "text")
_GRANULARITIES = ("segment", "word")
_KNOWN = {
    "file", "model", "language", "prompt", "response_format", "temperature", "stream", "timestamp_granularities",
    "chunking_strategy", "include", "target_language",
}  # fmt: skip


@dataclass(frozen=True)
class Fields:
    file: UploadFile
    model: str
    language: str | None
    target_language: str | None
    response_format: str
    granularities: frozenset[str]
    temperature: float | None
    stream: bool


def read_fields(form: FormData) -> Fields:
    """
    :raises Refusal: a field is missing, unknown, repeated or has a value that is not allowed.
    """
    # `a[]` and `a[b]` belong to the field `a`; clients and users of curl write both `a` and `a[]`.
    names = {name.partition("[")[0] for name in form}
    if unknown := sorted(names - _KNOWN):
        raise Refusal(400, f"found the field {unknown[0]!r}, expected {', '.join(sorted(_KNOWN))}", param=unknown[0])
    files = [value for value in form.getlist("file") if isinstance(value, UploadFile)]
    if len(files) != 1:
        raise Refusal(400, f"file: found {len(files)} uploaded files, expected one", param="file")
    response_format = _text(form, "response_format") or "json"
    if response_format not in FORMATS:
        raise _wrong("response_format", response_format, f"one of {', '.join(FORMATS)}")
    stream = (_text(form, "stream") or "false").lower()
    if stream not in ("true", "false", "1", "0"):
        raise _wrong("stream", stream, "true or false")
    is_stream = stream in ("true", "1")
    if is_stream and response_format not in _STREAMED:
        raise _wrong("response_format", response_format, f"{' or '.join(_STREAMED)} where stream is true")
    granularities = frozenset(_texts(form, "timestamp_granularities"))
    if other := sorted(granularities - set(_GRANULARITIES)):
        raise _wrong("timestamp_granularities", other[0], " or ".join(_GRANULARITIES))
    if granularities and response_format != "verbose_json":
        raise _wrong("response_format", response_format, "verbose_json where timestamp_granularities are given")
    if include := _texts(form, "include"):
        raise _wrong("include", include[0], "none: it is not told how likely tokens are")
    return Fields(
        file=files[0],
        model=_text(form, "model") or "",
        language=_text(form, "language"),
        target_language=_text(form, "target_language"),
        response_format=response_format,
        granularities=granularities or frozenset({"segment"}),
        temperature=_temperature(_text(form, "temperature")),
        stream=is_stream,
    )


def _texts(form: FormData, name: str) -> list[str]:
    values = [*form.getlist(name), *form.getlist(f"{name}[]")]
    if any(isinstance(value, UploadFile) for value in values):
        raise Refusal(400, f"{name}: found a file, expected a text", param=name)
    return [text for value in values if (text := str(value).strip())]


def _text(form: FormData, name: str) -> str | None:
    """The field's text; an empty text counts as none, because clients send it for fields that are not given."""
    values = _texts(form, name)
    if len(values) > 1:
        raise Refusal(400, f"{name}: found {len(values)} values, expected one", param=name)
    return values[0] if values else None


def _temperature(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 2:
        raise _wrong("temperature", text, "0 to 2")
    # A decoder cannot divide by less, so a lower temperature means 0.
    return value if value == 0 or value >= 1e-4 else 0.0


def _wrong(name: str, found: str, expected: str) -> Refusal:
    return Refusal(400, f"{name}: found {found[:80]!r}, expected {expected}", param=name)
