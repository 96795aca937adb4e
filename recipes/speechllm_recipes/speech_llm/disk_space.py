"""Reports a full disk in one line with the place and the space that is free there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fairseq2.checkpoint import CheckpointManager
from torch import Tensor, nn
from torch.optim import Optimizer

from speechllm_plugin.errors import UserError

_OVERHEAD = 2**20
"""Maximum size of a checkpoint without its tensors, in bytes."""


def before_each_checkpoint(manager: CheckpointManager, check: Callable[[int], None]) -> None:
    """Makes `manager` call `check` with the number of the step before it writes a checkpoint."""
    save = manager.save_checkpoint

    def save_checkpoint(step_nr: int, *arguments: Any, **options: Any) -> None:
        check(step_nr)
        save(step_nr, *arguments, **options)

    manager.save_checkpoint = save_checkpoint  # type: ignore[method-assign]


def ask_for_space_first(manager: CheckpointManager, directory: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Makes `manager` check for space before it writes a checkpoint. fairseq2 alone would leave half a checkpoint, and
    an error about objects that cannot be pickled.

    :param directory: directory of the checkpoints.
    """

    def check(step_nr: int) -> None:
        tensors = [*model.state_dict().values(), *_tensors(optimizer.state)]
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors) + _OVERHEAD
        check_space(directory, needed, f"the checkpoint of step {step_nr}")

    before_each_checkpoint(manager, check)


def check_space(directory: Path, needed: int, purpose: str) -> None:
    """
    :param needed: bytes needed.
    :raises UserError: fewer bytes are free.
    """
    free = _free(directory)
    if free < needed:
        raise UserError(
            f"{directory}: found {_megabytes(free)} free on its disk, expected at least {_megabytes(needed)} for "
            f"{purpose}"
        )


def full_disk(error: BaseException, directory: Path) -> UserError | None:
    """One line about an error that a full disk or quota has caused; None for other errors."""
    for cause in _chain(error):
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        # PyTorch has messages of its own for a full disk.
        if full or "PytorchStreamWriter failed writing" in str(cause) or "unexpected pos" in str(cause):
            place = getattr(cause, "filename", None) or directory
            return UserError(
                f"{place}: the disk or its quota is full, found {_megabytes(_free(directory))} free on it, expected "
                "room for what the run writes"
            )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _free(directory: Path) -> int:
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(os.path.realpath(directory)).free


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
