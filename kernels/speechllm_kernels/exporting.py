"""Whether a graph is made for another program."""

from __future__ import annotations

import torch


def is_exporting() -> bool:
    """Whether `torch.export` traces this; `torch.compile`, of which `torch.compiler.is_exporting` says so too (PyTorch
    2.9), does not count."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
