"""Work that the memory has no room for costs its own row of a table, and no other's."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

_OF_A_CPU = "can't allocate memory"
"""How PyTorch begins the reason on a CPU, whose errors have no class of their own."""


def runs_out(work: Callable[[], object]) -> bool:
    """Does the work.

    :returns: whether memory was too short for it; what it had taken is then free again.
    """
    try:
        work()
        return False
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if _OF_A_CPU not in str(error):
            raise
    free_memory()
    return True


def free_memory() -> None:
    """Gives back what nothing holds any more, so that other processes can have it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
