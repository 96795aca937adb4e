"""Maps one function over many shards, on any machines, with the results in order."""

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
    """The machines that work on shards."""

    workers: int
    """Processes on this machine; 0 works in the current process."""
    ray: str | None = None
    """Address of a Ray cluster, whose size replaces `workers`."""
    gpus: bool = False
    """Whether each process takes one GPU, if there are any."""


def add_machines(parser: argparse.ArgumentParser, *, default: str = "") -> None:
    """
    :param default: describes the default of `--workers`, which is then ``None``; empty means one process a core.
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
    :raises UserError: `--workers` is below 1.
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
    """Each shard with its result. Few shards are under way at a time, so that memory stays bounded.

    :param function: a function of a module, since other processes import it; it may be called again for a shard whose
        process or node was lost.
    :raises UserError: `function` raised it, or the cluster cannot be reached.
    """
    if machines.ray is not None:
        from speechllm_tools.shards.cluster import map_on_cluster

        return map_on_cluster(function, shards, machines.ray, gpus=machines.gpus)
    if machines.workers == 0:
        return ((shard, function(shard)) for shard in shards)
    from speechllm_tools.shards.processes import map_in_processes

    return map_in_processes(function, shards, machines.workers, gpus=machines.gpus)
