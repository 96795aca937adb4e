"""Modes of PyTorch in which nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_gradients() -> Iterator[None]:
    """Also inside of fairseq2's inference mode: layers that processes gather there could not be used in training."""
    with torch.inference_mode(False), torch.no_grad():
        yield
