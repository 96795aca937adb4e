"""The paths of the server over a system in this process: what fails, what stalls, and what is silent."""

from __future__ import annotations

import http.client
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import uvicorn
from speechllm_tools.serve import upload
from speechllm_tools.serve.app import create_app
from speechllm_tools.serve.engine import Batch
from speechllm_tools.serve.service import Service, System
from speechllm_tools.serve.ways import Decoder

from speechllm_plugin.inference.transcriber import Transcriber
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.recordings.cutting import CutConfig
from tests.tools.serve.test_engine import system_of
from tests.waiting import LONGEST, wait_until

if TYPE_CHECKING:
    from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig

RATE = 16_000
PATH = "/v1/audio/transcriptions"


@contextmanager
def serving(begin: Callable[[], Batch]) -> Iterator[int]:
    """:returns: the port."""
    system = System(begin=begin, check_languages=lambda source, target: None, tells_times=False, names=("tiny",),
                    whole=30.0, window=30.0, cut=CutConfig())  # fmt: skip
    config = uvicorn.Config(create_app(Service(systems=(system,))), "127.0.0.1", 0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the server has started")
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="wav")
    return file.getvalue()


def form(sound: bytes, **fields: str) -> bytes:
    parts = [
        f'--limit\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in {"model": "tiny", **fields}.items()
    ]
    head = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    return b"".join([*parts, head, sound, b"\r\n--limit--\r\n"])


def sent(port: int, body: bytes, share: float = 1.0, **headers: str) -> http.client.HTTPResponse:
    """The answer to a request of which a share has been sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST)
    connection.putrequest("POST", PATH)
    for name, value in {"Content-Type": "multipart/form-data; boundary=limit", **headers}.items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[: round(share * len(body))])
    return connection.getresponse()


def text_of(port: int, sound: bytes) -> str:
    answer = sent(port, form(sound))
    values = json.loads(answer.read())
    assert answer.status == 200, values
    return str(values["text"])


class Failing:
    """A batch that fails."""

    joins = True

    def add(self, items: Sequence[Any], way: Any) -> NoReturn:
        raise RuntimeError("no room in /home/somebody/models")

    def drop(self, number: int) -> None:
        raise AssertionError("it has no items")

    def step(self) -> NoReturn:
        raise AssertionError("it has no items")


def test_a_failure_is_500_and_its_cause_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    sound = wav(0.1 * np.ones(RATE, dtype=np.float32))
    expected = {
        "message": "the server failed on this request; its log tells more",
        "type": "server_error", "param": None, "code": None,
    }  # fmt: skip
    with caplog.at_level(logging.ERROR), serving(Failing) as port:
        answer = sent(port, form(sound))
        assert (answer.status, json.loads(answer.read())["error"]) == (500, expected)
        # A stream has begun with status 200 by then.
        streamed = sent(port, form(sound, stream="true"))
        (event,) = [line for line in streamed.read().decode().splitlines() if line]
        assert json.loads(event.removeprefix("data: "))["error"] == expected
    assert "no room in /home/somebody/models" in caplog.text


def test_an_upload_that_stalls_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_STALLED", 0.2)
    with serving(Failing) as port:
        answer = sent(port, form(wav(np.zeros(RATE))), share=0.5)
        assert answer.status == 400 and answer.headers["Connection"] == "close"
        message = json.loads(answer.read())["error"]["message"]
        assert message == "found no more of the request for 0.2 s, expected all of it"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST)
        connection.request("GET", "/metrics")
        assert b"speechllm_requests_under_way 0.0" in connection.getresponse().read()
        connection.close()


@torch.inference_mode()
def probability(system: Transcriber, samples: np.ndarray) -> float:
    """Of a text, as the guard has it."""
    batch = system.read([samples], "en", None)
    (found,) = system.model.generate(batch, DecodingConfig(no_speech_probability=1.0))[1]
    return float(found.no_speech.removeprefix("probability "))


def test_silence_has_an_empty_text(tiny_config: SpeechLlmConfig) -> None:
    """Above the window the detector of speech finds none; below it the guards of the run decide."""
    pytest.importorskip("silero_vad")
    silence, long = np.zeros(3 * RATE, dtype=np.float32), wav(np.zeros(40 * RATE))
    tone = (0.2 * np.sin(np.arange(RATE) / 7)).astype(np.float32)
    system = system_of(tiny_config, "float32")
    with serving(partial(Decoder, system, "en")) as port:
        made_up, said = text_of(port, wav(silence)), text_of(port, wav(tone))
        assert made_up and said and text_of(port, long) == ""
    sure = [probability(system, samples) for samples in (silence, tone)]
    assert sure[0] != sure[1]
    for guard, texts in (
        ({"no_speech_level": -60.0}, ["", said]),
        # Whichever the random LLM believes less.
        ({"no_speech_probability": sum(sure) / 2}, ["", said] if sure[0] < sure[1] else [made_up, ""]),
        ({"no_speech_probability": 1.0}, ["", ""]),
    ):
        guarded = Transcriber(system.model, replace(DecodingConfig(), **guard))
        with serving(partial(Decoder, guarded, "en")) as port:
            assert [text_of(port, wav(samples)) for samples in (silence, tone)] == texts, guard
            assert text_of(port, long) == ""
