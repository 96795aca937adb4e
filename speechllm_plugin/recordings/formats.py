"""Writes a recording's text in formats for people and players."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal

from speechllm_plugin.alignment.timed_text import Timed
from speechllm_plugin.recordings.transcript import Transcript

Unit = Literal["segments", "words"]
_LEAST = 0.02
"""Least seconds of a subtitle: players drop subtitles without a length."""


def render(transcript: Transcript, name: str, unit: Unit = "segments") -> str:
    """
    :param name: one of `FORMATS`.
    :param unit: the unit of a subtitle or a row; JSON holds both units.
    """
    return FORMATS[name](transcript, parts(transcript, unit))


def parts(transcript: Transcript, unit: Unit) -> Sequence[Timed]:
    """Words if `unit` asks for them and they have times, otherwise segments; empty without text."""
    spans = transcript.words if unit == "words" and transcript.words is not None else transcript.segments
    return [span for span in spans if span.text.strip()]


def _text(transcript: Transcript, spans: Sequence[Timed]) -> str:
    return one_line(transcript.text) + "\n"


def _srt(transcript: Transcript, spans: Sequence[Timed]) -> str:
    cues = [
        f"{number}\n{_clock(span.start, ',')} --> {_clock(_end(span), ',')}\n{_no_arrow(one_line(span.text))}\n"
        for number, span in enumerate(spans, start=1)
    ]
    return "\n".join(cues)


def _vtt(transcript: Transcript, spans: Sequence[Timed]) -> str:
    cues = [
        f"\n{_clock(span.start, '.')} --> {_clock(_end(span), '.')}\n{_escaped(one_line(span.text))}\n"
        for span in spans
    ]
    return "WEBVTT\n" + "".join(cues)


def _tsv(transcript: Transcript, spans: Sequence[Timed]) -> str:
    rows = [f"{span.start:.3f}\t{span.end:.3f}\t{one_line(span.text)}\n" for span in spans]
    return "start\tend\ttext\n" + "".join(rows)


def _json(transcript: Transcript, spans: Sequence[Timed]) -> str:
    values: dict[str, object] = {
        "text": one_line(transcript.text),
        "duration": round(transcript.seconds, 3),
        "segments": [
            {"id": number, **_times(span), "text": one_line(span.text)}
            for number, span in enumerate(parts(transcript, "segments"))
        ],
    }
    if transcript.words is not None:
        values["words"] = [{"word": span.text, **_times(span)} for span in parts(transcript, "words")]
    return json.dumps(values, ensure_ascii=False, indent=1) + "\n"


FORMATS: dict[str, Callable[[Transcript, Sequence[Timed]], str]] = {
    "text": _text, "srt": _srt, "vtt": _vtt, "json": _json, "tsv": _tsv
}  # fmt: skip
SUFFIXES = {"text": "txt"}
"""Endings of files where they are not the format's name."""


def one_line(text: str) -> str:
    return " ".join(text.split())


def _times(span: Timed) -> dict[str, float]:
    return {"start": round(span.start, 3), "end": round(span.end, 3)}


def _end(span: Timed) -> float:
    return max(span.end, span.start + _LEAST)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _no_arrow(text: str) -> str:
    # Players take a line with an arrow for the times of the next subtitle.
    return text.replace("-->", "->")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
