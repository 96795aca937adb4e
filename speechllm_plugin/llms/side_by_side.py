"""Passes over several rows at once, with the bits that each row has alone.

On a CPU a pass over few positions costs nearly as much as one over many: 77 ms for 16 of SmolLM2-135M, 185 ms for 96.
Rows that stand one behind the other (`packing.py`) share their linear layers alone, whose sums may come in another
order when there are more positions. On many CPUs they do not, or only from 256 positions on (bfloat16 with AMX). That
is tried for each shape of weights and for each number of positions that is used, as nobody promises it. Passes have as
many positions as keep the bits; where none do, each row has passes of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechllm_plugin.llms.states import States, cache_of, length_of, states_of
from speechllm_plugin.workarounds.transformers_versions import CACHE

if TYPE_CHECKING:
    from speechllm_plugin.llms.causal_llm import CausalLlm

SIZES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Positions of a pass: it is filled up to one of these, so that few have to be tried."""
TRIED = 16
"""Positions that are compared."""
_LENGTHS = (16, 9, 23)
"""Of rows that are compared."""


def pass_rows(llm: CausalLlm, rows: Sequence[Tensor], before: Sequence[States]) -> list[tuple[Tensor, States]]:
    """
    :param rows: embeddings of each, `[N, C]`.
    :param before: the states of the positions before each.
    :returns: of each its hidden states, `[N, C]`, and the states with those of its own positions behind.
    """
    most = llm.packs_to_the_bit
    found: list[tuple[Tensor, States]] = []
    for group in _groups(list(map(len, rows)), most):
        if len(rows[group.start]) > most:
            found.append(_alone(llm, rows[group.start], before[group.start]))
        else:
            found += _together(llm, rows[group], before[group])
    return found


def _groups(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Neighbours that have room in one pass of at most so many positions; a row that has none for itself is alone."""
    start = total = 0
    for place, length in enumerate(lengths):
        if place > start and total + length > most:
            yield slice(start, place)
            start, total = place, 0
        total += length
    yield slice(start, len(lengths))


def _together(llm: CausalLlm, rows: Sequence[Tensor], before: Sequence[States]) -> list[tuple[Tensor, States]]:
    total = sum(map(len, rows))
    hidden, packed, cache = llm.packed_pass(rows, before, min(size for size in SIZES if size >= total), keep=True)
    assert cache is not None
    layers = states_of(cache)
    found = []
    for row in packed.rows:
        own = slice(packed.kept + row.own.start, packed.kept + row.own.stop)
        states = [[torch.cat([x[:, :, row.prefix], x[:, :, own]], dim=2) for x in layer] for layer in layers]
        found.append((hidden[row.own], states))
    return found


def _alone(llm: CausalLlm, row: Tensor, before: States) -> tuple[Tensor, States]:
    cache = cache_of(before)
    positions = torch.arange(len(row), device=row.device).unsqueeze(0) + length_of(before)
    hidden: Tensor = llm.decoder(
        inputs_embeds=row.unsqueeze(0), position_ids=positions, **{CACHE: cache}, use_cache=True
    ).last_hidden_state
    return hidden[0], states_of(cache)


@torch.no_grad()
def most_positions(llm: CausalLlm) -> int:
    """How many positions a packed pass may have for each row to have the bits that it has alone: one of `SIZES`, or 0
    for none. Tried with random numbers."""
    # A GPU chooses other products for other numbers of positions, and has little to gain.
    if llm.device.type != "cpu":
        return 0
    generator = torch.Generator().manual_seed(0)
    sizes, tried = list(SIZES), set[tuple[object, ...]]()
    for module in llm.decoder.modules():
        if isinstance(module, nn.Embedding) or not any(weight.dim() > 1 for weight in module.parameters(recurse=False)):
            continue
        if type(module) is not nn.Linear:
            return 0
        shape = (module.weight.shape, module.weight.dtype, module.bias is None)
        if shape not in tried:
            sizes = _with_equal_bits(module, sizes, generator)
        tried.add(shape)
    if sum(_LENGTHS) > max(sizes, default=0):
        return 0
    # All else of the decoder, by rows of which one fills its pass when it is alone.
    rows = [torch.randn(length, llm.dim, generator=generator).to(llm.embedding_table.dtype) for length in _LENGTHS]
    alone = [_together(llm, [row], [[]])[0] for row in rows]
    together = _together(llm, rows[::-1], [[]] * len(rows))[::-1]
    equal = all(
        torch.equal(x, y)
        for (hidden, states), (other, others) in zip(together, alone, strict=True)
        for x, y in zip([hidden, *sum(states, [])], [other, *sum(others, [])], strict=True)
    )
    return max(sizes) if equal else 0


def _with_equal_bits(linear: nn.Linear, sizes: Sequence[int], generator: torch.Generator) -> list[int]:
    """The sizes up to the first one that shows in the results."""
    inputs = torch.randn(SIZES[-1], linear.in_features, generator=generator).to(linear.weight.dtype)
    expected = linear(inputs[:TRIED])
    return list(takewhile(
        lambda size: torch.equal(linear(inputs[:size])[:TRIED], expected)
        and torch.equal(linear(inputs[:size].roll(size - TRIED, 0))[-TRIED:], expected),
        sizes,
    ))
