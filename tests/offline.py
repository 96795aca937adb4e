"""No test asks a name server: where there is no network, a question takes as long as all of a file's tests."""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any

QUESTIONS = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr")


def ask_no_name_server() -> None:
    """From here on the name of another machine is an error, in this process and in what is forked from it.

    Libraries in C ask by themselves: gloo for the name of this machine, PyTorch's store for the names of addresses.
    What none answers costs them a second, and not ten.
    """
    os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
    for name in QUESTIONS:
        setattr(socket, name, _of_this_machine(getattr(socket, name)))


def _of_this_machine(question: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(question)
    def asked(host: object, *arguments: Any, **options: Any) -> Any:
        if not _is_here(host):
            raise AssertionError(f"socket.{question.__name__}: found {host!r}, expected localhost or an address")
        return question(host, *arguments, **options)

    return asked


def _is_here(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        ipaddress.ip_address(str(name))
    except ValueError:
        return False
    return True
