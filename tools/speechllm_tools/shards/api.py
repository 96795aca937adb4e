"""One function over many shards, with the results in order, wherever they are worked on."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from speechllm_plugin.errors import UserError

Shard = TypeVar("Shard")
Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Where shards are worked on."""

    workers: int
    """Processes on this machine; 0 = this one."""
    ray: str | None = None
    """Address of a Ray cluster, whose size decides in the place of `workers`."""
    gpus: bool = False
    """Whether each process takes one of the GPUs, where there are any."""


def add_machines(parser: argparse.ArgumentParser, *, default: str = "") -> None:
    """
    :param default: of `--workers`, in words, where it is not one a core; then it is ``None``.
    """
    cores = count_cores()
    parser.add_argument(
        "--workers", metavar="N", type=int, default=None if default else cores,
        help=f"processes (default: {default or f'one a core, here {cores}'})",
    )  # fmt: skip
    add_ray(parser)


def add_ray(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ray", metavar="ADDRESS",
        help="work on a Ray cluster in the place of this machine: auto, HOST:PORT or ray://HOST:PORT; all its nodes "
        "see the same files",
    )  # fmt: skip


def machines_of(options: argparse.Namespace, *, gpus: bool = False) -> Machines:
    """
    :raises UserError: there is to be no process.
    """
    if options.workers < 1:
        raise UserError(f"--workers: found {options.workers}, expected at least 1")
    return Machines(workers=options.workers, ray=options.ray, gpus=gpus)


def count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shards_of(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while shard := list(islice(iterator, size)):
        yield shard


def map_shards(
    function: Callable[[Shard], Result], shards: Iterable[Shard], machines: Machines
) -> Iterator[tuple[Shard, Result]]:
    """Each shard with its result. A few are under way at a time, so that memory stays flat.

    :param function: of a module, as other processes must find it; it may be called again for a shard whose process, or
        node, was lost.
    :raises UserError: as `function` raises it; or there is no such cluster.
    """
    if machines.ray is not None:
        from speechllm_tools.shards.cluster import map_on_cluster

        return map_on_cluster(function, shards, machines.ray, gpus=machines.gpus)
    if machines.workers == 0:
        return ((shard, function(shard)) for shard in shards)
    from speechllm_tools.shards.processes import map_in_processes

    return map_in_processes(function, shards, machines.workers, gpus=machines.gpus)
