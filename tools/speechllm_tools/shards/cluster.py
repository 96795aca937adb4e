"""Shards on a Ray cluster, whose nodes may come and go."""

from __future__ import annotations

import logging
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from speechllm_plugin.errors import UserError

Shard = TypeVar("Shard")
Result = TypeVar("Result")
_RETRIES = 8
"""A shard may lose this many nodes."""
_PLACE = re.compile(r"(?:ray://)?(?P<host>[^:/]+):(?P<port>\d+)")


def map_on_cluster(
    function: Callable[[Shard], Result], shards: Iterable[Shard], address: str, *, gpus: bool
) -> Iterator[tuple[Shard, Result]]:
    """See `map_shards`. A shard whose node is lost goes to another node.

    :param gpus: whether each call takes a GPU, if the cluster has any.
    :raises UserError: Ray is not installed, there is no such cluster, or a shard ends each process that takes it.
    """
    ray = _connected(address)
    try:
        has_gpus = gpus and ray.cluster_resources().get("GPU", 0) > 0
        remote = ray.remote(max_retries=_RETRIES, num_cpus=1, num_gpus=1 if has_gpus else 0)(_call)
        pending: deque[tuple[Shard, Any]] = deque()
        for shard in shards:
            pending.append((shard, remote.remote(function, shard)))
            # The size is asked each time, because nodes join and leave.
            if len(pending) > ray.cluster_resources().get("GPU" if has_gpus else "CPU", 1) + 2:
                yield _taken(ray, pending)
        while pending:
            yield _taken(ray, pending)
    finally:
        ray.shutdown()


def _call(function: Callable[[Shard], Result], shard: Shard) -> Result:
    return function(shard)


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("--ray: Ray is not installed (pip install 'speechllm-plugin[ray]')") from None
    try:
        # Ray itself would try to connect for minutes.
        if match := _PLACE.fullmatch(address):
            socket.create_connection((match["host"], int(match["port"])), timeout=10).close()
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError, OverflowError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--ray: found no cluster at {address!r} ({reason}), expected one (ray start --head)") from None
    return ray


def _taken(ray: Any, pending: deque[tuple[Shard, Any]]) -> tuple[Shard, Any]:
    shard, result = pending.popleft()
    try:
        return shard, ray.get(result)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--ray: a process was lost {_RETRIES + 1} times over one shard ({reason})") from None
