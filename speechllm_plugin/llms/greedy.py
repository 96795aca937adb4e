"""Greedy search and sampling of a decoder, token by token: what `generate` of transformers does, without what it does
around each token.

The prompt's states before the speech are kept from batch to batch, and rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from speechllm_plugin.llms.decoding import Generated
from speechllm_plugin.llms.generation import Search
from speechllm_plugin.llms.joining import pad_rows
from speechllm_plugin.workarounds.transformers_versions import CACHE

SHRINK = 0.75
"""The batch is made smaller when this share of its rows, or less, is left: each time all states are copied."""


def search_greedily(
    decoder: Callable[..., Any],
    logits_of: Callable[[Tensor], Tensor],
    embed: Callable[[Tensor], Tensor],
    rows: Sequence[Tensor],
    prefix: tuple[DynamicCache | None, Tensor, Tensor],
    search: Search,
    stops: Collection[int],
    written: Sequence[Sequence[int]] | None = None,
) -> list[Generated]:
    """
    :param decoder: embeddings to hidden states.
    :param rows: what follows each row's prefix, `[N, C]`, up to its last known token.
    :param prefix: cache, mask `[B, P]` and the positions that follow, `[B]`, of what comes before.
    :param stops: the tokens that end a hypothesis.
    :param written: of each row, the tokens that it goes on from, whose embeddings are at the end of `rows`; they are in
        the result. None = nothing.
    """
    cache, prefix_mask, first = prefix
    inputs, mask = pad_rows(rows, "left")
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0) + first.unsqueeze(1)
    mask = torch.cat([prefix_mask, mask], dim=1)
    cache = DynamicCache() if cache is None else cache
    tokens = torch.empty(len(rows), 0, dtype=torch.long, device=inputs.device)
    alive, ended = list(range(len(rows))), [False] * len(rows)
    texts: list[list[int]] = [list(text) for text in written or [()] * len(rows)]
    processors = _processors(search, alive, written, inputs.device)
    while True:
        output = decoder(
            inputs_embeds=inputs, attention_mask=mask, position_ids=positions, **{CACHE: cache}, use_cache=True
        )
        scores = processors(tokens, logits_of(output.last_hidden_state[:, -1]).float())
        chosen = scores.argmax(dim=-1)
        for row, token in zip(alive, chosen.tolist(), strict=True):
            ended[row] = ended[row] or token in stops
            if not ended[row]:
                texts[row].append(token)
        left = [place for place, row in enumerate(alive) if not ended[row]]
        if not left:
            break
        tokens = torch.cat([tokens, chosen.unsqueeze(1)], dim=1)
        positions = positions[:, -1:] + 1
        if len(left) <= SHRINK * len(alive):
            alive = [alive[place] for place in left]
            kept = torch.tensor(left, device=inputs.device)
            tokens, positions, mask = tokens[kept], positions[kept], mask[kept]
            cache.batch_select_indices(kept)
            processors = _processors(search, alive, written, inputs.device)
        inputs = embed(tokens[:, -1:])
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return [Generated(text, cut=len(text) >= limit) for text, limit in zip(texts, search.limits, strict=True)]


def _processors(
    search: Search, alive: Sequence[int], written: Sequence[Sequence[int]] | None, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """For what the rows that are left have written here, `[B, N]`, and their scores, `[B, V]`."""
    if written is None:
        processors: Any = search.only(alive).processors(device)  # declared for transformers' own subclasses of tensors
        return processors
    return _EachRow([search.only([row]).processors(device) for row in alive],
                    [torch.tensor(written[row], dtype=torch.long, device=device) for row in alive])


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
