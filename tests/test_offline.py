"""Names of other machines are no part of a test."""

from __future__ import annotations

import socket

import pytest

from tests.commands import Commands, environment


def test_a_name_is_refused_before_any_server_is_asked() -> None:
    with pytest.raises(AssertionError, match=r"^socket\.getaddrinfo: found 'huggingface\.co', expected localhost"):
        socket.create_connection(("huggingface.co", 443))
    with pytest.raises(AssertionError, match="gethostbyname"):
        socket.gethostbyname("huggingface.co")
    assert socket.getaddrinfo("localhost", 80) and socket.getaddrinfo("::1", 80)
    # Of what asks in C.
    assert environment()["RES_OPTIONS"] == "timeout:1 attempts:1"


def test_commands_ask_none_either(commands: Commands) -> None:
    assert "found 'huggingface.co'" in commands.module("tests.test_offline").stderr


def main(argv: list[str]) -> int:
    socket.create_connection(("huggingface.co", 443))
    return 0
