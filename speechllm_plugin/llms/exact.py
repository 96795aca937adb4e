"""A batch gives the same tokens as its rows one by one, in half precision, too.

In bfloat16 the logits of a row move by a few units in the last place with the shape of its batch, and the two likeliest
tokens are often nearer than that. So a batch only drafts. What counts are the row's own logits: those of one pass over
the row alone, whose shape follows from the row and its limit (prompt, speech, and as many places as the text may have).
A place's logits depend on the tokens before it, so one pass checks a whole draft; where it calls for another token, the
row goes on alone from there and is checked again. A draft, whoever made it, changes the time this takes and not the
text. The idea is speculative decoding's (arXiv 2211.17192), with a batch in the place of the small model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from speechllm_plugin.llms.decoding import Generated
from speechllm_plugin.llms.generation import Search

PLACES = 32
"""Positions whose logits are computed together: a constant, because the shape of a product may change its rounding."""


class Rows(Protocol):
    """The rows of a batch, as an LLM reads them."""

    stops: list[int]
    """The tokens that end a hypothesis."""
    dtype: torch.dtype
    """Of the LLM's weights."""
    apart: bool
    """Whether they cannot share a batch in any precision."""
    one_pass: bool
    """Whether `hidden` at a position is the same to the bit whatever follows it."""

    def __len__(self) -> int: ...

    @abstractmethod
    def generate(self, rows: Sequence[int], search: Search, written: Sequence[int] = ()) -> list[Generated]:
        """Decodes some rows as one batch.

        :param search: of these rows.
        :param written: of a single row, the tokens that it goes on from; they are in the result.
        """

    @abstractmethod
    def hidden(self, row: int, tokens: Sequence[int]) -> Tensor:
        """Hidden states of the last place of the prompt and of each of the tokens, by one pass over the row alone,
        `[len(tokens) + 1, C]`."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """`[N, C]` -> `[N, V]`."""



def decode(rows: Rows, search: Search) -> list[Generated]:
    """What each row alone calls for."""
    half = rows.dtype != torch.float32
    # Beams cannot be checked by one pass: hypotheses are compared with each other at every step.
    if rows.apart or (half and (search.config.beam_size > 1 or not rows.one_pass)):
        return [rows.generate([row], search.only([row]))[0] for row in range(len(rows))]
    drafts = rows.generate(range(len(rows)), search)
    if not half:
        return drafts
    return [_settle(rows, row, search.only([row]), draft) for row, draft in enumerate(drafts)]


def _settle(rows: Rows, row: int, search: Search, draft: Generated) -> Generated:
    (limit,) = search.limits
    settled, known = 0, 0.0
    while True:
        # A text that ends at once and one that is cut have the same pass.
        padding = [search.end_of_turn] * (limit - len(draft.tokens))
        hidden = rows.hidden(row, [*draft.tokens, *padding])
        wanted = _tokens(search, draft.tokens, settled, _in_pieces(rows, hidden, settled), hidden.device)
        for place, (token, log_probability) in enumerate(wanted, start=settled):
            if token in rows.stops:
                return Generated(draft.tokens[:place], cut=place >= limit, log_probability=known)
            known += log_probability
            if place < len(draft.tokens) and token == draft.tokens[place]:
                continue
            written = [*draft.tokens[:place], token]
            break
        if len(written) == limit:
            return Generated(written, cut=True, log_probability=known)
        settled = len(written)
        (draft,) = rows.generate([row], search, written)


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
