"""Greedy search and sampling, token by token: what `generate` of transformers does, without what it does around each
token. Rows that have ended leave the batch, and others join it between two tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from speechllm_plugin.llms.generation import Search
from speechllm_plugin.tensors.copies import on_device

SHRINK = 0.75
"""The batch is made smaller when this share of its rows, or less, is left: each time all states are copied."""


class RowStates(Protocol):
    """What an LLM keeps of the rows of a batch from token to token."""

    @abstractmethod
    def begin(self) -> Tensor:
        """Reads the rows up to their last known tokens.

        :returns: hidden states at those, `[B, C]`.
        """

    @abstractmethod
    def go_on(self, tokens: Tensor) -> Tensor:
        """
        :param tokens: one for each row, `[B, 1]`.
        :returns: hidden states at them, `[B, C]`.
        """

    @abstractmethod
    def keep(self, places: Sequence[int]) -> None:
        """:param places: of the rows that are left."""

    @abstractmethod
    def join(self, others: Any) -> None:
        """Puts other rows, of the same kind and begun, behind these."""


@dataclass(eq=False)
class Writing:
    """A row of `GreedyLoop`."""

    number: int
    search: Search
    """Of it alone."""
    text: list[int]
    """The tokens that it has, those that it goes on from among them."""
    ended: bool = False

    @property
    def cut(self) -> bool:
        """Whether it has as many tokens as it may."""
        return len(self.text) >= self.search.limits[0]


class GreedyLoop:
    """Rows that are written together."""

    def __init__(self, logits_of: Callable[[Tensor], Tensor], stops: Collection[int], device: torch.device) -> None:
        """
        :param logits_of: `[B, C]` -> `[B, V]`.
        :param stops: the tokens that end a text.
        """
        self._logits_of, self._stops, self._device = logits_of, stops, device
        self._states: RowStates | None = None
        """Of `_rows`, and with them those that have ended since it was last made smaller."""
        self._rows: list[Writing] = []
        self._joining: list[tuple[RowStates, Tensor, Sequence[Writing]]] = []
        """Rows that have begun since the last step, with their hidden states, `[B, C]`."""
        self._cohorts: list[_Cohort] = []
        self._last = torch.empty(0)
        """The token that each of `_rows` has written last, `[B, 1]`."""

    def __len__(self) -> int:
        """Rows that have not ended."""
        return sum(not row.ended for row in self._every())

    def _every(self) -> list[Writing]:
        return [*self._rows, *(row for _, _, rows in self._joining for row in rows)]

    def add(self, rows: Sequence[Writing], states: RowStates) -> None:
        """Reads what the rows begin with; they write from the next step on.

        :param states: of these rows, not begun.
        """
        self._joining.append((states, states.begin(), rows))

    def drop(self, number: int) -> None:
        for row in self._every():
            row.ended |= row.number == number

    def step(self) -> list[Writing]:
        """One more token for each row.

        :returns: the rows that have ended with it.
        """
        self._shrink()
        hidden = [] if self._states is None else [self._states.go_on(self._last)]
        for states, begun, rows in self._joining:
            hidden.append(begun)
            self._rows += rows
            if self._states is None:
                self._states = states
            else:
                self._states.join(states)
        if self._joining:
            self._joining = []
            self._cohorts = _cohorts(self._rows, self._device)
        chosen = self._choose(self._logits_of(torch.cat(hidden)).float())
        self._last = chosen.unsqueeze(1)
        ended = []
        for row, token in zip(self._rows, chosen.tolist(), strict=True):
            if row.ended:
                continue
            row.ended = row.cut or token in self._stops
            if not row.ended:
                row.text.append(token)
                row.ended = row.cut
            if row.ended:
                ended.append(row)
        if all(row.ended for row in self._rows):
            self._states, self._rows, self._cohorts = None, [], []
        return ended

    def _choose(self, scores: Tensor) -> Tensor:
        """`[B, V]` -> `[B]`."""
        if any(cohort.has_processors for cohort in self._cohorts):
            parts = scores.split([cohort.size for cohort in self._cohorts])
            scores = torch.cat([cohort.process(part) for cohort, part in zip(self._cohorts, parts, strict=True)])
        chosen = scores.argmax(dim=-1)
        for cohort, tokens in zip(self._cohorts, chosen.split([cohort.size for cohort in self._cohorts]), strict=True):
            cohort.write(tokens)
        return chosen

    def _shrink(self) -> None:
        """Rows that have ended leave where that is worth a copy of the states, or where these are copied anyway."""
        left = [place for place, row in enumerate(self._rows) if not row.ended]
        if len(left) == len(self._rows) or (len(left) > SHRINK * len(self._rows) and not self._joining):
            return
        self._rows = [self._rows[place] for place in left]
        self._cohorts = _cohorts(self._rows, self._device)
        if self._states is None or not left:
            self._states = None
            return
        self._states.keep(left)
        self._last = self._last[on_device(left, self._device)]


class _Cohort:
    """Neighbours that have texts of one length and are searched for alike: their scores are processed together."""

    def __init__(self, rows: Sequence[Writing], device: torch.device) -> None:
        self.size = len(rows)
        search = Search.joined([row.search for row in rows])
        start = [] if search.start_token is None else [search.start_token]
        # Declared for transformers' own subclasses of tensors.
        self._processors: Any = search.processors(device)
        self._tokens = on_device([[*start, *row.text] for row in rows], device, torch.long).view(self.size, -1)

    @property
    def has_processors(self) -> bool:
        return len(self._processors) > 0

    def process(self, scores: Tensor) -> Tensor:
        processed: Tensor = self._processors(self._tokens, scores)
        return processed

    def write(self, tokens: Tensor) -> None:
        if self.has_processors:
            self._tokens = torch.cat([self._tokens, tokens.unsqueeze(1)], dim=1)


def _cohorts(rows: Sequence[Writing], device: torch.device) -> list[_Cohort]:
    def alike(row: Writing) -> tuple[int, object]:
        return len(row.text), row.search.config

    return [_Cohort(list(group), device) for _, group in groupby(rows, alike)]
