"""Cross entropy over a large vocabulary in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from speechllm_plugin import logits


def cross_entropy(
    hidden: Tensor, labels: Tensor, logits_of: Callable[[Tensor], Tensor], vocabulary_size: int
) -> Tensor:
    """
    :param hidden: `[N, C]`, the positions that predict `labels` `[N]`.
    :param logits_of: `[N, C]` -> `[N, V]`.
    :returns: the sum over N, in nats.
    """

    def chunk_loss(hidden: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits_of(hidden).float(), labels, reduction="sum")

    size = max(1, logits.LOGITS_AT_A_TIME // vocabulary_size)
    if len(labels) <= size:
        return chunk_loss(hidden, labels)
    # Checkpointed: the logits of a chunk are computed again in the backward pass, and freed after it.
    losses = [
        checkpoint(chunk_loss, *pair, use_reentrant=False)
        for pair in zip(hidden.split(size), labels.split(size), strict=True)
    ]
    return torch.stack(losses).sum()
