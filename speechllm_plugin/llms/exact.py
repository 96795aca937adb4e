"""A batch gives the same tokens as its rows one by one, in half precision, too.

In bfloat16 the logits of a row move by a few units in the last place with the shape of its batch, and the two likeliest
tokens are often nearer than that. So a batch only drafts. What counts are the row's own logits: those of passes over
the row alone, whose shapes follow from the row and its limit (its prompt, then blocks of as many places as `Rows.block`
tells). A place's logits depend on the tokens before it, so one pass checks a whole block of a draft. Where it calls for
another token, the row takes that one and is drafted anew from there. A draft, whoever made it and beside whatever rows,
changes the time this takes and not the text. The idea is speculative decoding's (arXiv 2211.17192),
with a batch in the place of the small model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from speechllm_plugin.llms.decoding import Generated
from speechllm_plugin.llms.generation import Search
from speechllm_plugin.llms.greedy import RowStates
from speechllm_plugin.llms.joining import PromptRow

PLACES = 32
"""Positions whose logits are computed together: a constant, because the shape of a product may change its rounding."""


@dataclass(frozen=True)
class Block:
    """Places of a row's text that one pass checks."""

    start: int
    tokens: list[int]
    """Of the row, from its first place on to the one before the block's last."""


class Rows(Protocol):
    """The rows of a batch, as an LLM reads them, by their numbers."""

    stops: list[int]
    """The tokens that end a hypothesis."""
    dtype: torch.dtype
    """Of the LLM's weights."""
    device: torch.device
    apart: bool
    """Whether they cannot share a batch in any precision."""
    joins: bool
    """Whether rows can join others that have begun."""
    one_pass: bool
    """Whether `hidden` at a place is the same to the bit whatever follows it."""
    block: int | None
    """Places of a text that one pass checks; None = all that it may have."""

    @abstractmethod
    def add(self, rows: Sequence[PromptRow]) -> list[int]:
        """:returns: numbers that no row has had."""

    @abstractmethod
    def scales(self, row: int, limit: int) -> bool:
        """Whether a row of up to `limit` tokens changes the positions of rows beside it: see `scaled_positions`."""

    @abstractmethod
    def forget(self, row: int) -> None:
        """What is kept of a row."""

    @abstractmethod
    def beams(self, rows: Sequence[int], search: Search) -> list[Generated]:
        """Decodes some rows as one batch.

        :param search: of these rows.
        """

    @abstractmethod
    def states(self, rows: Sequence[int]) -> RowStates:
        """With which some rows begin as one batch."""

    @abstractmethod
    def draft_states(self, rows: Sequence[int], written: Sequence[Sequence[int]]) -> RowStates:
        """With which drafts of some rows go on as one batch.

        :param written: the tokens that each has.
        """

    @abstractmethod
    def hidden(self, rows: Sequence[int], blocks: Sequence[Block]) -> list[Tensor]:
        """Hidden states that call for the tokens of a block of each row, `[places, C]`, to the bit those of a pass over
        the row alone. Blocks before it were asked for with the same tokens."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """`[N, C]` -> `[N, V]`."""


def check(rows: Rows, drafts: Mapping[CheckedRow, Sequence[int]]) -> None:
    """Lets each row take what its own logits call for, as far as its draft goes, and a token more.

    :param drafts: each begins with the tokens that its row has.
    """
    agreeing = [row for row in drafts if row.text is None]
    for row in agreeing:
        row.draft = list(drafts[row])
    while agreeing:
        states = rows.hidden([row.number for row in agreeing], [row.block() for row in agreeing])
        agreeing = [row for row, hidden in zip(agreeing, states, strict=True) if row.agrees(hidden)]


class CheckedRow:
    """A row, and what its own logits have called for so far."""

    def __init__(self, rows: Rows, number: int, search: Search) -> None:
        """:param search: of the row alone."""
        self.number = number
        self._rows, self._search = rows, search
        (self._limit,) = search.limits
        self._log_probability = 0.0
        self.tokens: list[int] = []
        self.draft: list[int] = []
        """Begins with `tokens`."""
        self.text = None if self._limit else Generated([], cut=True, log_probability=0.0)
        """Once the row's own logits have called for its end, or where it may have no token."""

    def block(self) -> Block:
        """What is to be checked next."""
        size = self._rows.block or self._limit
        start = len(self.tokens) - len(self.tokens) % size
        # A text that ends at once and one that is cut have the same passes.
        end = min(start + size, self._limit)
        padding = [self._search.end_of_turn] * (end - 1 - len(self.draft))
        return Block(start, [*self.draft[: end - 1], *padding])

    def agrees(self, hidden: Tensor) -> bool:
        """Takes what is called for.

        :param hidden: of `block`.
        :returns: whether the draft goes on as the row does; otherwise it has ended, or has one more token.
        """
        block = self.block()
        logits = _in_pieces(self._rows, hidden, len(self.tokens) - block.start)
        draft = self.draft[: block.start + len(hidden)]
        for token, log_probability in _tokens(self._search, draft, len(self.tokens), logits, hidden.device):
            if token in self._rows.stops:
                self.text = Generated(self.tokens, cut=False, log_probability=self._log_probability)
                return False
            place = len(self.tokens)
            self.tokens.append(token)
            self._log_probability += log_probability
            if len(self.tokens) == self._limit:
                self.text = Generated(self.tokens, cut=True, log_probability=self._log_probability)
                return False
            if place >= len(draft) or token != draft[place]:
                return False
        return True


def _in_pieces(rows: Rows, hidden: Tensor, first: int) -> Iterator[Tensor]:
    """Logits `[1, V]` of each place from `first` on, as they are asked for."""
    start = first - first % PLACES
    pieces = (
        rows.logits(hidden[i : i + PLACES]).float().unsqueeze(1) for i in range(start, len(hidden), PLACES)
    )
    yield from islice((place for piece in pieces for place in piece), first - start, None)


def _tokens(
    search: Search, tokens: Sequence[int], first: int, logits: Iterator[Tensor], device: torch.device
) -> list[tuple[int, float]]:
    """What a row's own logits call for at each place of a draft, its end included, given what the draft has before.

    :returns: tokens, each with its log-probability.
    """
    processors: Any = search.processors(device)  # declared for transformers' own subclasses of tensors
    start = [] if search.start_token is None else [search.start_token]
    ids = torch.tensor([[*start, *tokens]], dtype=torch.long, device=device)
    chosen, likely = [], []
    for place, scores in enumerate(islice(logits, len(tokens) + 1 - first), start=first):
        token = processors(ids[:, : len(start) + place], scores).argmax(dim=-1)
        chosen.append(token)
        likely.append(scores.log_softmax(dim=-1)[0, token])
    # All at once: each value would make the host wait for the device.
    return list(zip(torch.cat(chosen).tolist(), torch.cat(likely).tolist(), strict=True))
