"""`speechllm serve` as its users meet it: the openai package and curl against the real server over a tiny system."""

from __future__ import annotations

import http.client
import io
import json
import signal
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader")
pytest.importorskip("openai")
pytest.importorskip("fastapi")

import openai

from speechllm_plugin.inference.transcriber import load_speech_llm
from tests.commands import Commands
from tests.speech import RATE
from tests.tools.serve.serving import KEY, Server
from tests.waiting import LONGEST, wait_until

FILE_HEAD = (
    b'--limit\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n'
    b'--limit\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
)
"""Of a request, up to the bytes of its file."""

def transcribed(server: Server, file: Path | tuple[str, bytes], **options: object) -> object:
    return server.client().audio.transcriptions.create(file=file, model="tiny", **options)


def test_the_client_gets_each_format(commands: Commands, server: Server, trained: Path, clips: list[Path]) -> None:
    file = clips[2]
    options = ("transcribe", file, "--checkpoint", trained, "--format")
    documents = {name: commands.speechllm(*options, name).ok().stdout for name in ("srt", "vtt", "text", "json")}
    expected = json.loads(documents["json"])
    assert expected["text"]
    answer = transcribed(server, file)
    assert answer.text == expected["text"] and answer.usage.type == "duration"
    for name in ("srt", "vtt", "text"):
        assert transcribed(server, file, response_format=name) == documents[name]
    verbose = transcribed(server, file, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert verbose.text == expected["text"] and verbose.language == "en"
    assert abs(float(verbose.duration) - expected["duration"]) < 0.001
    assert [(word.word, word.start, word.end) for word in verbose.words] == [
        (word["word"], word["start"], word["end"]) for word in expected["words"]
    ]
    assert [(part.start, part.text) for part in verbose.segments] == [
        (part["start"], part["text"]) for part in expected["segments"]
    ]
    assert all(value is not None for part in verbose.segments for value in part.model_dump().values())
    segments_alone = transcribed(server, file, response_format="verbose_json")
    assert segments_alone.words is None and segments_alone.segments


def test_every_kind_of_sound_from_curl_and_client(server: Server, clips: list[Path], texts: list[str]) -> None:
    for file, text in zip(clips, texts, strict=True):
        assert transcribed(server, ("../../etc/pass wd%22é", file.read_bytes())).text == text
        status, body = server.curl("-F", f"file=@{file};filename=x", "-F", "model=whisper-1")
        assert (status, json.loads(body)["text"]) == (200, text)
    # The file before and behind the other fields, and empty fields, which clients send for what is not given.
    status, body = server.curl(
        "-F",
        "model=tiny",
        "-F",
        "language=",
        "-F",
        "prompt=",
        "-F",
        f"file=@{clips[0]}",
        "-F",
        "response_format=text",
        "-F",
        "temperature=0",
    )
    assert (status, body) == (200, texts[0] + "\n")


def test_a_translation_is_into_english(server: Server, trained: Path, clips: list[Path]) -> None:
    model = load_speech_llm(trained, device="cpu")
    client = server.client()
    # The tiny system has a prompt that names both languages.
    expected = model.transcribe([clips[1]], source_lang="de", target_lang="en")[0]
    answer = client.audio.translations.create(file=clips[1], model="tiny", extra_body={"language": "de"})
    assert answer.text == " ".join(expected.split())
    answer = client.audio.transcriptions.create(
        file=clips[1], model="tiny", language="en", extra_body={"target_language": "fr"}
    )
    expected = model.transcribe([clips[1]], source_lang="en", target_lang="fr")[0]
    assert answer.text == " ".join(expected.split())


def test_a_stream_says_what_the_answer_says(server: Server, talk: Path, clips: list[Path], texts: list[str]) -> None:
    for file, least in ((clips[0], 1), (talk, 4)):
        events = list(transcribed(server, file, stream=True))
        deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
        assert events[-1].type == "transcript.text.done"
        assert "".join(deltas) == events[-1].text == transcribed(server, file).text
        assert len(deltas) >= least
    assert "".join(deltas)
    status, body = server.curl("-N", "-F", f"file=@{clips[0]}", "-F", "model=tiny", "-F", "stream=true")
    assert status == 200 and body.endswith("data: [DONE]\n\n")


def test_a_long_recording_has_the_text_of_the_command(
    commands: Commands, server: Server, trained: Path, talk: Path
) -> None:
    document = commands.speechllm("transcribe", talk, "--checkpoint", trained, "--format", "srt").ok().stdout
    assert document.count("-->") > 5
    assert transcribed(server, talk, response_format="srt") == document


def test_requests_at_once_share_batches_and_change_nothing(server: Server, clips: list[Path], texts: list[str]) -> None:
    before = [server.metric(f"speechllm_batch_size_{name}") for name in ("sum", "count")]
    jobs = [(number % len(clips)) for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: transcribed(server, clips[number]).text, jobs))
    assert answers == [texts[number] for number in jobs]
    pieces, steps = (server.metric(f"speechllm_batch_size_{name}") - old
                     for name, old in zip(("sum", "count"), before, strict=True))  # fmt: skip
    assert pieces > 2 * steps > 0
    assert server.metric("speechllm_requests_under_way ") == 0


def test_each_system_answers_by_its_name(server: Server, second: Path, clips: list[Path], texts: list[str]) -> None:
    others = [" ".join(text.split()) for text in load_speech_llm(second, device="cpu").transcribe(clips)]
    assert set(others).isdisjoint(texts)
    jobs = [(number % len(clips), number % 3 == 0) for number in range(16)]
    create = server.client().audio.transcriptions.create
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda job: create(file=clips[job[0]], model=("tiny", "second")[job[1]]).text, jobs))
    assert answers == [(others if is_second else texts)[number] for number, is_second in jobs]


@pytest.mark.parametrize(
    ("change", "status", "expected"),
    [
        ({"model": "other"}, 404, "model: found 'other', expected tiny or whisper-1"),
        ({"model": None}, 404, "model: found ''"),
        ({"response_format": "diarized_json"}, 400, "response_format: found 'diarized_json', expected one of json"),
        ({"response_format": "srt", "stream": "true"}, 400, "expected json or text where stream is true"),
        ({"language": "xqzt"}, 400, "language: found 'xqzt'"),
        ({"temperature": "hot"}, 400, "temperature: found 'hot', expected 0 to 2"),
        ({"temperature": "nan"}, 400, "temperature: found 'nan'"),
        ({"stream": "maybe"}, 400, "stream: found 'maybe', expected true or false"),
        ({"timestamp_granularities[]": "letter", "response_format": "verbose_json"}, 400, "found 'letter'"),
        ({"timestamp_granularities": "word"}, 400, "expected verbose_json where timestamp_granularities"),
        ({"include[]": "logprobs"}, 400, "include: found 'logprobs'"),
        ({"beams": "4"}, 400, "found the field 'beams', expected"),
        ({"file": b""}, 400, "found an empty file"),
        ({"file": None}, 400, "file: found 0 uploaded files, expected one"),
        ({"file": b"no sound at all, but a text"}, 415, "found no audio (text)"),
        ({"file": b"\x8f\x13\x02" * 5000}, 415, "found no audio"),
        ({"file": b"\0" * 5000}, 415, "zero bytes alone"),
        ({"file": b"%PDF-1.7 " * 100}, 415, "a PDF document"),
        ({"file": "truncated"}, 400, "expected a whole file"),
        ({"file": "endless"}, 400, "expected at most 120 s"),
        ({"file": "endless, the header says 0 s"}, 400, "expected at most 120 s"),
        ({"file": "endless, the header says 3 s"}, 400, "expected at most 120 s"),
        ({"file": "huge"}, 413, "expected at most 2 MB"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(
    server: Server, clips: list[Path], tmp_path: Path, change: dict[str, object], status: int, expected: str
) -> None:
    fields: dict[str, object] = {"model": "tiny", "file": clips[0].read_bytes(), **change}
    if fields["file"] == "truncated":
        fields["file"] = clips[0].read_bytes()[:20_000]
    elif fields["file"] == "huge":
        fields["file"] = b"\1" * 3_000_000
    elif fields["file"] == "endless":
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(200 * RATE), RATE, format="flac")
        fields["file"] = buffer.getvalue()
    elif isinstance(fields["file"], str):
        fields["file"] = longer_than_stated(int(fields["file"].split()[-2]))
    arguments: list[str] = []
    for name, value in fields.items():
        if isinstance(value, bytes):
            (tmp_path / "upload").write_bytes(value)
            arguments += ["-F", f"file=@{tmp_path / 'upload'}"]
        elif value is not None:
            arguments += ["-F", f"{name}={value}"]
    found, body = server.curl(*arguments)
    assert found == status, body
    error = json.loads(body)["error"]
    assert expected in error["message"] and "\n" not in error["message"], error
    assert error["type"] == "invalid_request_error" and set(error) == {"message", "type", "param", "code"}
    assert "/" not in error["message"].replace("`ffmpeg", "").replace("multipart/form-data", ""), "no path of ours"


def longer_than_stated(seconds: int) -> bytes:
    """A wav of 200 s whose header says less."""
    buffer, rate = io.BytesIO(), 4000
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 200 * rate)
    soundfile.write(buffer, noise, rate, format="wav", subtype="PCM_U8")
    head, size, samples = buffer.getvalue().partition(b"data" + struct.pack("<I", 200 * rate))
    assert size and len(samples) == 200 * rate
    return head + b"data" + struct.pack("<I", seconds * rate) + samples


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/audio/transcriptions", "multipart/form-data; boundary=limit"), ("/v1/chat/completions", "application/json")],
)
def test_a_body_of_unknown_length_is_limited_while_it_comes(server: Server, path: str, kind: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONGEST)
    connection.putrequest("POST", path)
    for name, value in (("Content-Type", kind), ("Authorization", f"Bearer {KEY}"), ("Transfer-Encoding", "chunked")):
        connection.putheader(name, value)
    connection.endheaders()
    # The server answers, and closes the connection, before all has been sent.
    with suppress(BrokenPipeError, ConnectionResetError):
        for part in [FILE_HEAD, *[b"\1" * 100_000] * 60]:
            connection.send(b"%x\r\n%s\r\n" % (len(part), part))
        connection.send(b"0\r\n\r\n")
    response = connection.getresponse()
    assert response.status == 413 and "expected at most 2 MB" in json.loads(response.read())["error"]["message"]
    connection.close()


def test_the_framework_refuses_in_the_same_shape(server: Server, clips: list[Path]) -> None:
    for arguments, path, status in (
        ([], "/v1/audio/speech", 404),
        ([], "/v1/audio/transcriptions", 405),
        (["-d", "{}", "-H", "Content-Type: application/json"], "/v1/audio/transcriptions", 400),
        (["-d", "x", "-H", "Content-Type: multipart/form-data"], "/v1/audio/transcriptions", 400),
        (["-d", "x", "-H", "Content-Type: multipart/form-data; boundary=y"], "/v1/audio/transcriptions", 400),
        (["-F", "model=tiny", "-H", "Authorization: Bearer wrong"], "/v1/audio/transcriptions", 401),
    ):
        if status == 401:
            result = subprocess.run(
                ["curl", "-sS", "-w", "\n%{http_code}", server.url + path, *arguments],
                capture_output=True,
                text=True,
                check=True,
                timeout=LONGEST,
            )
            body, _, found = result.stdout.rpartition("\n")
        else:
            found, body = server.curl(*arguments, path=path)
        assert int(found) == status, body
        assert json.loads(body)["error"]["message"], body
    with pytest.raises(openai.AuthenticationError, match="no valid key"):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError, match="found 'gpt'"):
        server.client().audio.transcriptions.create(file=clips[0], model="gpt")


def test_models_and_health(server: Server) -> None:
    assert [model.id for model in server.client().models.list()] == ["tiny", "whisper-1", "second"]
    assert server.client().models.retrieve("tiny").owned_by == "speechllm-plugin"
    assert server.curl(path="/health") == (200, '{"status":"ok"}')


def test_an_undecodable_file_is_uploaded_once(server: Server, clips: list[Path]) -> None:
    client = server.client().with_options(max_retries=2)
    before = server.metric("speechllm_requests_total")
    with pytest.raises(openai.BadRequestError):
        client.audio.transcriptions.create(file=("x.wav", clips[0].read_bytes()[:20_000]), model="tiny")
    assert server.metric("speechllm_requests_total") == before + 1


def test_a_stream_that_cannot_begin_is_refused(server: Server, clips: list[Path]) -> None:
    with pytest.raises(openai.BadRequestError, match="expected a whole file"):
        list(transcribed(server, ("x.wav", clips[0].read_bytes()[:20_000]), stream=True))


def test_clients_that_leave_give_their_places_back(server: Server, talk: Path) -> None:
    # Uploads that have come in by half, and one that is worked on.
    connections = [begun(server, talk.read_bytes(), share) for share in [0.5] * 16 + [1.0] * 4]
    wait_until(lambda: server.metric("speechllm_requests_under_way ") == 20, "20 requests are under way")
    # All places are taken: the next is told to come again, and when.
    with pytest.raises(openai.RateLimitError, match="found 20 requests under way") as refused:
        transcribed(server, talk)
    assert 1 <= int(refused.value.response.headers["Retry-After"]) <= 120
    for connection in connections:
        connection.close()
    wait_until(lambda: not server.metric("speechllm_requests_under_way "), "the places are given back")
    assert transcribed(server, talk).text


def test_options_that_cannot_be_are_one_line(commands: Commands, trained: Path) -> None:
    for options, expected in (
        (("--batch-size", 0), "--batch-size: found 0, expected at least 1"),
        (("--max-minutes", "nan"), "--max-minutes: found nan, expected more than 0"),
        (("--source-lang", "xqzt"), "language: found 'xqzt'"),
        (("--beside", trained), "--beside: found a second system named run, expected another name"),
    ):
        assert expected in commands.speechllm("serve", "--checkpoint", trained, *options).user_error()


def test_sigterm_finishes_what_runs(server: Server, talk: Path) -> None:
    """The last test: it ends the server that the others share."""
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(transcribed, server, talk, stream=stream) for stream in (False, True)]
        stream = answers[1].result()
        server.process.send_signal(signal.SIGTERM)
        events = list(stream)
        assert answers[0].result().text == events[-1].text != ""
    assert server.process.wait(60) == -signal.SIGTERM


def begun(server: Server, file: bytes, share: float) -> http.client.HTTPConnection:
    """A request of which a share has been sent."""
    body = FILE_HEAD + file + b"\r\n--limit--\r\n"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONGEST)
    connection.putrequest("POST", "/v1/audio/transcriptions")
    connection.putheader("Content-Type", "multipart/form-data; boundary=limit")
    connection.putheader("Authorization", f"Bearer {KEY}")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[: round(share * len(body))])
    return connection
