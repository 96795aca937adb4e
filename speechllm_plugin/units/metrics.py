"""Metrics that the units share."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from fairseq2.metrics.aggregation import Mean
from torch import Tensor


class LossMean(Mean):
    """A mean over target tokens; NaN without tokens, where torcheval's mean would be 0."""

    weighted_sum: Tensor
    weights: Tensor

    @torch.inference_mode()
    def compute(self) -> Tensor:
        return self.weighted_sum / self.weights

    @torch.inference_mode()
    def add(self, total: Tensor, count: int) -> None:
        """:param total: a sum over `count` tokens."""
        self.update(total.detach() / count, weight=count)


def drop_absent(values: MutableMapping[str, object], *names: str) -> None:
    """Removes the losses that had no token: a CTC-only step has no LLM loss, a batch of one no neighbour."""
    for name in names:
        if name in values and number(values[name]) != number(values[name]):
            del values[name]


def number(value: object) -> float:
    """A metric's value, tensor or not."""
    return value.item() if isinstance(value, Tensor) else float(str(value))
