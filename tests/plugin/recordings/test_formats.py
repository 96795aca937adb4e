"""Documents as players and programs read them."""

from __future__ import annotations

import json

from speechllm_plugin.alignment.timed_text import Timed
from speechllm_plugin.recordings.formats import FORMATS, render
from speechllm_plugin.recordings.transcript import Transcript

WORDS = (Timed("so", 0.0, 0.4), Timed("a<b", 0.4, 0.4), Timed("-->", 3661.0, 3661.9996))
TALK = Transcript(
    4000.0,
    "so a<b -->",
    (Timed("so a<b", 0.0, 0.4), Timed("", 1.0, 2.0), Timed("-->\n", 3661.0, 3661.9996)),
    WORDS,
    1.0,
)
EMPTY = Transcript(3.0, "", (), None, 0.0)


def test_srt() -> None:
    assert render(TALK, "srt") == ("1\n00:00:00,000 --> 00:00:00,400\nso a<b\n\n2\n01:01:01,000 --> 01:01:02,000\n->\n")
    # A word without length is shown nevertheless.
    assert "2\n00:00:00,400 --> 00:00:00,420\na<b\n" in render(TALK, "srt", "words")


def test_vtt() -> None:
    assert render(TALK, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.400\nso a&lt;b\n\n01:01:01.000 --> 01:01:02.000\n--&gt;\n"
    )


def test_tsv_and_text() -> None:
    assert render(TALK, "tsv", "words") == (
        "start\tend\ttext\n0.000\t0.400\tso\n0.400\t0.400\ta<b\n3661.000\t3662.000\t-->\n"
    )
    assert render(TALK, "text") == "so a<b -->\n"


def test_json_has_words_where_they_have_times() -> None:
    values = json.loads(render(TALK, "json"))
    assert values["duration"] == 4000 and values["text"] == "so a<b -->"
    assert values["segments"][1] == {"id": 1, "start": 3661.0, "end": 3662.0, "text": "-->"}
    assert [word["word"] for word in values["words"]] == ["so", "a<b", "-->"]
    assert json.loads(render(EMPTY, "json")) == {"text": "", "duration": 3.0, "segments": []}


def test_silence_is_an_empty_document() -> None:
    assert {name: render(EMPTY, name, "words") for name in FORMATS if name != "json"} == {
        "text": "\n",
        "srt": "",
        "vtt": "WEBVTT\n",
        "tsv": "start\tend\ttext\n",
    }
