"""Losses over a large vocabulary in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from speechllm_plugin.tensors import logits

LogitsOf = Callable[[Tensor], Tensor]
"""Gives the logits of states, `[N, C]` -> `[N, V]`."""


def cross_entropy(states: Tensor, labels: Tensor, logits_of: LogitsOf, vocabulary_size: int) -> Tensor:
    """
    :param states: states of the positions that predict `labels` `[N]`, `[N, C]`.
    :returns: the cross entropy of each position, `[N]`, in nats.
    """

    def loss(states: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits_of(states).float(), labels, reduction="none")

    return _in_pieces(loss, states, labels, size=max(1, logits.LOGITS_AT_A_TIME // vocabulary_size))


def divergence(
    states: Tensor, teacher: Tensor, logits_of: LogitsOf, vocabulary_size: int, temperature: float
) -> Tensor:
    """Kullback-Leibler divergence of the distributions over the vocabulary from those of a teacher.

    :param states: `[N, C]`.
    :param teacher: the teacher's states, `[N, C]`, which get no gradient.
    :param temperature: divides the logits of both.
    :returns: the divergence of each position, `[N]`, in nats.
    """

    def loss(states: Tensor, teacher: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = F.log_softmax(logits_of(teacher).float() / temperature, dim=1)
        found = F.log_softmax(logits_of(states).float() / temperature, dim=1)
        return F.kl_div(found, wanted, reduction="none", log_target=True).sum(dim=1)

    return _in_pieces(loss, states, teacher, size=max(1, logits.LOGITS_AT_A_TIME // (2 * vocabulary_size)))


def _in_pieces(loss: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor, *, size: int) -> Tensor:
    """
    :param size: number of positions whose logits may exist at once.
    """
    if len(first) <= size:
        return loss(first, second)
    # Each piece is checkpointed: the backward pass computes its logits again and frees them.
    losses = [
        checkpoint(loss, *pair, use_reentrant=False, preserve_rng_state=False)
        for pair in zip(first.split(size), second.split(size), strict=True)
    ]
    return torch.cat(losses)


def sum_rows(losses: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """
    :param losses: losses of the tokens of all targets, one target after the other, `[N]`.
    :returns: the sum of each target, `[B]`.
    """
    return torch.stack([row.sum() for row in losses.split([len(target) for target in targets])])
