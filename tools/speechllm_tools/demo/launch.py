"""Starts several processes of one command, as torchrun does. On a CPU that is faster than one process with several
threads, which wait for each other at every small product."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

_PERIOD = 1.0
"""Seconds between two checks of the processes."""
_PATIENCE = 60.0
"""Seconds in which the other processes may end by themselves after one has failed."""


def num_processes() -> int:
    """Number of processes with which the demo trains and decodes: two with half a batch each, if there are two
    cores."""
    return min(2, len(os.sched_getaffinity(0)))


def run_together(
    command: Sequence[str], number: int, *, console: IO[str] | None = None, watch: Callable[[], None] | None = None
) -> int:
    """
    :param console: the file that they print to; None = this console.
    :param watch: is called every second.
    :returns: 0, or the exit status of the first process that failed.
    """
    processes = [
        subprocess.Popen(command, stdout=console, stderr=console and subprocess.STDOUT, env={**os.environ, **variables})
        for variables in _variables(number)
    ]
    try:
        return _wait(processes, watch)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _variables(number: int) -> list[dict[str, str]]:
    if number == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    size = str(number)
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // number))
    return [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in map(str, range(number))]


def _wait(processes: Sequence[subprocess.Popen[bytes]], watch: Callable[[], None] | None) -> int:
    while True:
        codes = [process.poll() for process in processes]
        if failed := next((code for code in codes if code), 0):
            _end(processes)
            return failed
        if None not in codes:
            return 0
        with suppress(subprocess.TimeoutExpired):
            processes[codes.index(None)].wait(_PERIOD)
            continue
        if watch is not None:
            watch()


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends the other processes, which would wait for the failed one for ever."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
