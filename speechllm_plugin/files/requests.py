"""Calls of fsspec that go to another machine: what may come right is asked again, and where fsspec is asynchronous
(http, s3, gs, az) none waits without end.

fsspec's HTTP asks once; s3fs and others ask again by themselves, for seconds. A run of days outlives minutes in which
a server is overloaded, starts anew or cannot be reached.

Synchronous systems (sftp, smb, ftp, hf, webhdfs) have the limits of their libraries alone, of which some have none. A
thread that is left behind would not do: the next request on its connection may be given its late answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from speechllm_plugin.log import is_told, log

Result = TypeVar("Result")

TIMEOUT = 120.0
"""Seconds that one request may take, which asks for 8 MiB at most."""
_TRIES = 12
"""With the waits between them four to six minutes."""
_FIRST_TRIES = 3
"""Of a server that has never answered: its name, or a password, is likely to be wrong."""
_LONGEST_WAIT = 60.0
"""Seconds between two tries; the first wait is one second, each further one twice as long."""
_BUSY = {408, 425, 429}
"""HTTP's statuses from 400 to 499 that do not say that the request is wrong."""
_GONE = {404, 410}
_WRONG = (PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError, LookupError, AttributeError,
          NotImplementedError, ImportError)  # fmt: skip
_LATE = (TimeoutError, asyncio.TimeoutError)

_answered: set[str] = set()
"""Servers that have answered this process."""
_given_up: set[str] = set()
"""Servers that have not, and were asked in vain: they are asked once more each time, and not again."""
_repeated: Counter[str] = Counter()
"""How often each server was asked again."""
# The numbers that a run draws must not depend on its network.
_random = random.Random()


class RemoteError(OSError):
    """What the other side, or fsspec, says."""


def told(function: Callable[..., Result], *arguments: Any) -> Result:
    """What a function of fsspec gives that asks nobody.

    :raises RemoteError: whatever it raises: each file system has errors of its own.
    """
    try:
        return function(*arguments)
    except Exception as error:
        raise RemoteError(_reason(error)) from error


def ask(url: str, request: Callable[[], Result]) -> Result:
    """
    :param url: of what is asked for.
    :param request: made of `answer_of`.
    :raises FileNotFoundError: the server says that there is no such file.
    :raises RemoteError: it says something else that asking again does not change, or nothing for minutes.
    """
    # Behind the question mark of a signed URL is its signature.
    plain, mark, query = url.partition("?")
    server = "/".join(plain.split("/", 3)[:3])
    number = 0
    while True:
        number += 1
        try:
            answer = request()
            _answered.add(server)
            return answer
        except Exception as error:
            cause = _cause(error)
            if isinstance(cause, FileNotFoundError):
                raise cause from None
            reason = _reason(cause).replace(mark + query, "")
            if _is_lasting(cause):
                raise RemoteError(reason) from error
            if number >= _tries(server):
                _given_up.add(server)
                raise RemoteError(f"{reason}; asked {number} times" if number > 1 else reason) from error
        _wait(plain, server, number, reason)


def answer_of(system: Any, method: str, *arguments: Any, **options: Any) -> Any:
    """What a method of a file system gives; it may raise anything."""
    function = getattr(system, f"_{method}", None)
    if not (getattr(system, "async_impl", False) and asyncio.iscoroutinefunction(function)):
        return getattr(system, method)(*arguments, **options)
    from fsspec.asyn import sync

    # By itself the method would wait for ever for a loop that no thread runs any more.
    return sync(system.loop, function, *arguments, timeout=TIMEOUT, **options)


def _tries(server: str) -> int:
    if server in _answered:
        return _TRIES
    # Where a manifest names a wrong server, its thousands of files would each cost minutes until the first is told.
    return 1 if server in _given_up else _FIRST_TRIES


def _wait(url: str, server: str, number: int, reason: str) -> None:
    # Drawn, so that the processes of a run do not come back all at once.
    seconds = min(_LONGEST_WAIT, 2.0 ** (number - 1)) * _random.uniform(0.5, 1.0)
    _repeated[server] += 1
    if is_told(_repeated[server]):
        log.warning(
            "{}: {}; asked again in {:.1f} s (request number {:,} to {} that is repeated).", url, reason, seconds,
            _repeated[server], server,
        )  # fmt: skip
    time.sleep(seconds)


def _cause(error: Exception) -> BaseException:
    """fsspec's HTTP calls it a missing file when a server is busy, forbids it, or cannot be reached."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or cause is None:
        return error
    is_of_http = type(cause).__module__.partition(".")[0] == "aiohttp" or isinstance(cause, _LATE)
    return cause if is_of_http and _status(cause) not in _GONE else error


def _status(error: BaseException) -> int | None:
    """HTTP's, which each library keeps under another name."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status", "status_code", "code"):
            if isinstance(status := getattr(holder, name, None), int):
                return status
    return None


def _is_lasting(error: BaseException) -> bool:
    """Whether asking again gives the same."""
    status = _status(error)
    if status is not None and 400 <= status < 600:
        return status < 500 and status not in _BUSY
    return isinstance(error, _WRONG)


def _reason(error: BaseException) -> str:
    if isinstance(error, _LATE) and not str(error):
        return f"no answer within {TIMEOUT:g} s"
    return " ".join(str(error).split()) or type(error).__name__
