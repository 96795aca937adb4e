"""Greedy search and sampling, token by token: what `generate` of transformers does, without what it does around each
token. Rows that have ended leave the batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from speechllm_plugin.llms.decoding import Generated
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
    def keep(self, places: Tensor) -> None:
        """:param places: of the rows that are left, int64."""


@torch.no_grad()
def search_greedily(
    states: RowStates,
    logits_of: Callable[[Tensor], Tensor],
    search: Search,
    stops: Collection[int],
    device: torch.device,
    written: Sequence[Sequence[int]] = (),
) -> list[Generated]:
    """
    :param stops: the tokens that end a hypothesis.
    :param written: of each row, the tokens that it goes on from, which `states` begins with; they are in the result.
        () = nothing.
    """
    count = len(search.limits)
    texts = [list(text) for text in written or [()] * count]
    start = [] if any(texts) or search.start_token is None else [search.start_token]
    tokens = torch.tensor([start] * count, dtype=torch.long, device=device).view(count, -1)
    alive, ended = list(range(count)), [False] * count
    processors = _processors(search, alive, written, device)
    hidden = states.begin()
    while True:
        chosen = processors(tokens, logits_of(hidden).float()).argmax(dim=-1)
        for row, token in zip(alive, chosen.tolist(), strict=True):
            ended[row] = ended[row] or token in stops
            if not ended[row]:
                texts[row].append(token)
        left = [place for place, row in enumerate(alive) if not ended[row]]
        if not left:
            break
        tokens = torch.cat([tokens, chosen.unsqueeze(1)], dim=1)
        if len(left) <= SHRINK * len(alive):
            alive = [alive[place] for place in left]
            places = on_device(left, device)
            tokens = tokens[places]
            states.keep(places)
            processors = _processors(search, alive, written, device)
        hidden = states.go_on(tokens[:, -1:])
    return [Generated(text, cut=len(text) >= limit) for text, limit in zip(texts, search.limits, strict=True)]


def _processors(
    search: Search, alive: Sequence[int], written: Sequence[Sequence[int]], device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """For what the rows that are left have written here, `[B, N]`, and their scores, `[B, V]`."""
    if not any(written):
        processors: Any = search.only(alive).processors(device)  # declared for transformers' own subclasses of tensors
        return processors
    start = [] if search.start_token is None else [search.start_token]
    return _EachRow([search.only([row]).processors(device) for row in alive],
                    [torch.tensor([*start, *written[row]], dtype=torch.long, device=device) for row in alive])


class _EachRow:
    """Processors of rows that go on from texts of several lengths, which each of them has to see."""

    def __init__(self, processors: Sequence[Any], written: Sequence[Tensor]) -> None:
        """
        :param written: of each row, `[M]`.
        """
        self._processors, self._written = processors, written

    def __call__(self, tokens: Tensor, scores: Tensor) -> Tensor:
        rows = zip(self._processors, self._written, tokens, scores, strict=True)
        return torch.cat([process(torch.cat([text, row]).unsqueeze(0), score.unsqueeze(0))
                          for process, text, row, score in rows])
