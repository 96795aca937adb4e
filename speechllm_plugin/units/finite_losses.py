"""Ends a run at a loss that is no number, and names its utterances, without making a step wait for its loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from speechllm_plugin.tensors.copies import Arriving


@dataclass(frozen=True)
class _Pending:
    loss: Arriving
    step_nr: int
    ids: Sequence[str]


class FiniteLosses:
    """Checks each loss when the next one is added, since a GPU has finished it by then. Its gradient has changed the
    weights by then, too: call `check` before saving them."""

    def __init__(self) -> None:
        self._pending: _Pending | None = None

    def add(self, loss: Tensor, step_nr: int, ids: Sequence[str]) -> None:
        """
        :param ids: ids of the loss's utterances.
        :raises FloatingPointError: see `check`.
        """
        copy = Arriving(loss)
        self.check()
        self._pending = _Pending(copy, step_nr, ids)

    def check(self) -> None:
        """
        :raises FloatingPointError: the last loss is infinite or no number.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if not math.isfinite(value := pending.loss.get().item()):
            raise FloatingPointError(
                f"the loss is {value} at step {pending.step_nr} for the utterances {', '.join(pending.ids)}"
            )
