"""Logits over a large vocabulary in bounded memory: only those that are asked for are computed.

The logits of 10 clips of 30 s over Llama 3's 128,256 tokens, at 50 Hz, take 7.7 GB in float32, their log-softmax and
its gradient as much again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_AT_A_TIME = 2**27
"""Maximum number of logits in memory: 0.5 GB in float32, 1,046 positions over Llama 3's 128,256 tokens."""


@dataclass(frozen=True)
class LinearLogits:
    """The logits `inputs @ weight.T + bias`, computed on demand and outside autocast."""

    inputs: Tensor
    """`[..., T, C]`"""
    weight: Tensor
    """`[V, C]`"""
    bias: Tensor | None = None
    """`[V]`"""

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.inputs.shape[:-1], len(self.weight)])

    @property
    def are_many(self) -> bool:
        """Whether the logits are too many to exist at once."""
        return self.shape.numel() > LOGITS_AT_A_TIME

    @cached_property
    def whole(self) -> Tensor:
        """All logits, `[..., T, V]`."""
        return self._logits(self.inputs)

    def of(self, labels: Tensor) -> Tensor:
        """
        :param labels: `[L]`, or `[B, L]` for the rows of a batch.
        :returns: the logits of these labels, `[..., T, L]`.
        """
        with torch.autocast(self.inputs.device.type, enabled=False):
            logits = self.inputs @ self.weight[labels].transpose(-1, -2)
        return logits if self.bias is None else logits + self.bias[labels].unsqueeze(-2)

    @torch.no_grad()
    def best(self) -> Tensor:
        """The labels with the highest logits, the first of equal ones, `[B, T]`."""
        rows = [torch.cat([logits.argmax(dim=-1) for logits in self._pieces(row)]) for row in self.inputs]
        return torch.stack(rows)

    def log_sum_of_others(self, labels: Tensor) -> Tensor:
        """
        :param labels: `[B, L]`.
        :returns: the log-sum-exp of each frame's logits without those of its row's labels, `[B, T]`.
        """

        def log_sum(inputs: Tensor, left_out: Tensor) -> Tensor:
            return self._logits(inputs).index_fill(1, left_out, -torch.inf).logsumexp(dim=1)

        # Each piece is checkpointed: the backward pass computes its logits again and frees them.
        return torch.stack([
            torch.cat([
                checkpoint(log_sum, piece, left_out, use_reentrant=False, preserve_rng_state=False)
                for piece in row.split(self._step)
            ])
            for row, left_out in zip(self.inputs, labels, strict=True)
        ])

    def _pieces(self, row: Tensor) -> Iterator[Tensor]:
        return (self._logits(piece) for piece in row.split(self._step))

    def _logits(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, enabled=False):
            return F.linear(inputs, self.weight, self.bias)

    @property
    def _step(self) -> int:
        return max(1, LOGITS_AT_A_TIME // len(self.weight))


Logits = Tensor | LinearLogits
"""Logits of frames; a tensor where they have been computed."""


def whole(logits: Logits) -> Tensor:
    return logits if isinstance(logits, Tensor) else logits.whole


def first_frames(logits: Logits, row: int, length: int) -> Logits:
    """Logits of one row's first frames, `[length, V]`."""
    if isinstance(logits, Tensor):
        return logits[row, :length]
    return LinearLogits(logits.inputs[row, :length], logits.weight, logits.bias)


def first_rows(logits: Logits, count: int) -> Logits:
    """Logits of the first rows of a batch, `[count, T, V]`."""
    if isinstance(logits, Tensor):
        return logits[:count]
    return LinearLogits(logits.inputs[:count], logits.weight, logits.bias)


def columns(logits: Logits, labels: Tensor) -> Tensor:
    """
    :param logits: `[T, V]`.
    :param labels: `[L]`.
    :returns: `[T, L]`.
    """
    if isinstance(logits, Tensor):
        return logits[:, labels.to(logits.device)]
    return logits.of(labels.to(logits.inputs.device))


def stack_logits(rows: Sequence[Logits]) -> Logits:
    """Joins the logits of single clips, `[1, T, V]` each, into a batch."""
    pad = torch.nn.utils.rnn.pad_sequence
    if any(isinstance(row, Tensor) for row in rows):
        return pad([whole(row)[0] for row in rows], True)
    linear = [row for row in rows if isinstance(row, LinearLogits)]
    return LinearLogits(pad([row.inputs[0] for row in linear], True), linear[0].weight, linear[0].bias)
