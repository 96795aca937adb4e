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
    written: Sequence[int] = (),
) -> list[Generated]:
    """
    :param decoder: embeddings to hidden states.
    :param rows: what follows each row's prefix, `[N, C]`, up to its last known token.
    :param prefix: cache, mask `[B, P]` and the positions that follow, `[B]`, of what comes before.
    :param stops: the tokens that end a hypothesis.
    :param written: see `generate_rows`.
    """
    cache, prefix_mask, first = prefix
    inputs, mask = pad_rows(rows, "left")
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0) + first.unsqueeze(1)
    mask = torch.cat([prefix_mask, mask], dim=1)
    cache = DynamicCache() if cache is None else cache
    tokens = torch.tensor([list(written)] * len(rows), dtype=torch.long, device=inputs.device).view(len(rows), -1)
    alive, ended = list(range(len(rows))), [False] * len(rows)
    texts: list[list[int]] = [list(written) for _ in rows]
    processors: Any = search.processors(inputs.device)
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
            processors = search.only(alive).processors(inputs.device)
        inputs = embed(tokens[:, -1:])
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return [Generated(text, cut=len(text) >= limit) for text, limit in zip(texts, search.limits, strict=True)]
