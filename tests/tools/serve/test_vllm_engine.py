"""`speechllm serve --engine vllm`: requests share the batch, and a vLLM that fails is no fault of theirs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("espeakng_loader")
pytest.importorskip("openai")
pytest.importorskip("fastapi")

import openai

from speechllm_plugin.llms.vllm.server import NAME
from tests.commands import System
from tests.tools.serve.serving import KEY, Server
from tests.vllm_stand_in import StandIn, serving
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def stand_in(system: System, trained: Path) -> StandIn:
    weights = re.findall(r"weights: ([0-9a-f]{16})", (trained / "checkpoints/model.yaml").read_text())[-1]
    return StandIn(system.llm, NAME.format(weights))


@pytest.fixture(scope="module")
def vllm_server(stand_in: StandIn, trained: Path) -> Iterator[Server]:
    with serving(stand_in) as url:
        options = ("--model-name", "tiny", "--engine", "vllm", "--engine-url", url, "--api-key", KEY)
        server = Server(trained, *options, variable="another key")
        yield server
        server.end()
    log = "".join(server.log)
    assert "Traceback" not in log and KEY not in log and "another key" not in log


def transcribed(server: Server, file: Path) -> str:
    return str(server.client().audio.transcriptions.create(file=file, model="tiny").text)


def test_requests_at_once_have_the_texts_of_our_own_decoding(
    vllm_server: Server, stand_in: StandIn, clips: list[Path], texts: list[str]
) -> None:
    stand_in.writes.clear()
    stand_in.requests.clear()
    with ThreadPoolExecutor(len(clips)) as pool:
        found = pool.map(lambda file: transcribed(vllm_server, file), clips)
        wait_until(lambda: len(stand_in.requests) == len(clips), "all requests are with vLLM at once")
        stand_in.writes.set()
        assert list(found) == texts


def test_the_key_on_the_command_line_goes_before_the_variable(vllm_server: Server) -> None:
    assert [model.id for model in vllm_server.client().models.list()] == ["tiny"]
    with pytest.raises(openai.AuthenticationError):
        vllm_server.client().with_options(api_key="another key").models.list()


def test_a_client_that_leaves_is_left(vllm_server: Server, stand_in: StandIn, clips: list[Path]) -> None:
    stand_in.writes.clear()
    stand_in.requests.clear()
    left = stand_in.left
    address = f"{vllm_server.url}/v1/audio/transcriptions"
    fields = ("-F", f"file=@{clips[0]}", "-F", "model=tiny", "-H", f"Authorization: Bearer {KEY}")
    client = subprocess.Popen(["curl", "-sS", *fields, address])
    wait_until(lambda: stand_in.requests, "the request is with vLLM")
    client.kill()
    client.wait(60)
    wait_until(lambda: vllm_server.metric("speechllm_requests_under_way") == 0, "the request has left its place")
    stand_in.writes.set()
    wait_until(lambda: stand_in.left == left + 1, "vLLM sees that nobody waits")


@pytest.mark.parametrize("status", [400, 413])
def test_a_refusal_names_no_address(
    vllm_server: Server, stand_in: StandIn, clips: list[Path], texts: list[str], status: int
) -> None:
    stand_in.failures.append(status)
    with pytest.raises(openai.BadRequestError, match=f"file: vLLM: found status {status}") as error:
        transcribed(vllm_server, clips[0])
    assert "127.0.0.1" not in str(error.value.response.json())
    assert transcribed(vllm_server, clips[0]) == texts[0]


def test_a_failure_is_503_and_the_next_request_is_answered(
    vllm_server: Server, stand_in: StandIn, clips: list[Path], texts: list[str]
) -> None:
    for failure, told in (("drop", "found no answer"), (401, "found status 401")):
        stand_in.failures.append(failure)
        with pytest.raises(openai.InternalServerError) as error:
            transcribed(vllm_server, clips[0])
        assert error.value.status_code == 503
        assert "the program that writes the texts does not answer" in str(error.value)
        assert "127.0.0.1" not in str(error.value.response.json())
        wait_until(lambda told=told: any(told in line for line in vllm_server.log), "the log tells more")
    assert transcribed(vllm_server, clips[0]) == texts[0]
