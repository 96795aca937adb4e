"""Servers that fail now and then, and for good."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from speechllm_plugin.files import requests
from speechllm_plugin.files.remote import RemoteError, RemoteFile
from tests.web_server import Failure, Site, serving

DATA = bytes(range(256)) * 64


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    (tmp_path / "a").write_bytes(DATA)
    monkeypatch.setattr(requests, "_LONGEST_WAIT", 0.01)
    monkeypatch.setattr(requests, "TIMEOUT", 1.5)
    with serving(tmp_path) as site:
        yield site


def read(site: Site) -> bytes:
    file = RemoteFile(f"{site.url}/a")
    status = file.status()
    assert status is not None
    return file.read(0, status.size)


# Of a file's status fsspec asks twice: HEAD, then GET.
@pytest.mark.parametrize(
    "failures",
    [[503], [503, 503], [503] * 4, [429, 408], ["drop"], ["drop", "drop"], ["silence"], [500, "drop", 502, 504]],
    ids=str,
)
def test_what_may_come_right_is_asked_again(site: Site, failures: list[Failure]) -> None:
    site.failures.extend(failures)
    assert read(site) == DATA
    # Later on of the bytes alone: the status is known.
    site.failures.extend([failure for failure in failures for _ in range(2)])
    assert read(site) == DATA


def test_an_answer_that_breaks_off_is_asked_again(site: Site) -> None:
    assert read(site) == DATA
    site.failures.extend(["short", "short"])
    assert read(site) == DATA


@pytest.mark.parametrize(("status", "told"), [(403, "403.*Forbidden"), (401, "401.*Unauthorized"), (416, "416")])
def test_what_stays_wrong_is_told_at_once(site: Site, status: int, told: str) -> None:
    site.failures.extend([status] * 2)
    with pytest.raises(RemoteError, match=told) as caught:
        RemoteFile(f"{site.url}/a").status()
    assert "\n" not in str(caught.value) and site.requests == 2
    assert RemoteFile(f"{site.url}/none").status() is None
    assert read(site) == DATA
    before = site.requests
    site.failures.append(status)
    with pytest.raises(RemoteError, match=told):
        read(site)
    assert site.requests == before + 1


def test_a_server_that_never_answered_is_given_up_soon(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.failures.extend([503] * 100)
    with pytest.raises(RemoteError, match="503.*; asked 3 times"):
        read(site)
    assert len(caplog.messages) == 2
    assert "asked again in 0.0 s (request number 2 to http://127.0.0.1:" in caplog.messages[1]
    # Its other files are asked for once each.
    caplog.clear()
    before = site.requests
    with pytest.raises(RemoteError, match="503[^;]*$"):
        read(site)
    assert site.requests == before + 2 and caplog.messages == []
    site.failures.clear()
    assert read(site) == DATA
    site.failures.extend([503] * 100)
    with pytest.raises(RemoteError, match="503.*; asked 12 times"):
        read(site)
    # Of many the first ones are told, then how many there are.
    numbers = [message.partition("(request number ")[2].split()[0] for message in caplog.messages]
    assert numbers == ["3", "4", "5", "10"]


def test_no_request_waits_without_end(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.failures.extend(["silence"] * 100)
    began = time.monotonic()
    with pytest.raises(RemoteError, match="no answer within 1.5 s; asked 3 times"):
        read(site)
    assert time.monotonic() - began < 30


def test_the_signature_of_a_url_is_not_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    site.failures.extend([503, 503])
    RemoteFile(f"{site.url}/a?signature=secret").status()
    assert len(caplog.messages) == 1 and "secret" not in caplog.text


def test_a_process_that_is_forked_reads_too(site: Site) -> None:
    """What fsspec has begun is the parent's: its thread does not survive a fork."""
    assert read(site) == DATA
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(read(site)))
    child.start()
    child.join(60)
    assert child.exitcode == 0 and queue.get() == DATA
    assert read(site) == DATA


def test_what_a_forked_process_throws_away_stays_its_parents(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have one event queue: what the one takes out of it, the other waits for in vain."""
    monkeypatch.setattr(requests, "TIMEOUT", 10.0)
    site.keeps_connections = True
    assert read(site) == DATA
    child = multiprocessing.get_context("fork").Process(target=gc.collect)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert read(site) == DATA
    assert caplog.messages == []
