"""No test asks a name server: where there is no network, a question takes as long as all of a file's tests."""

from __future__ import annotations

import ipaddress
import os
import sys

QUESTIONS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")


def ask_no_name_server() -> None:
    """From here on the name of another machine is an error, in this process and in what is forked from it.

    Libraries in C ask by themselves: gloo for the name of this machine, PyTorch's store for the names of addresses.
    What none answers costs them a second, and not ten.
    """
    os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
    sys.addaudithook(_look)


def _look(event: str, arguments: tuple[object, ...]) -> None:
    if event in QUESTIONS and not _is_here(arguments[0]):
        raise AssertionError(f"{event}: found {arguments[0]!r}, expected localhost or an address")


def _is_here(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        ipaddress.ip_address(str(name))
    except ValueError:
        return False
    return True
