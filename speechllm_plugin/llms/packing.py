"""Packs rows into one sequence: nothing is padded, and each row attends to itself alone.

transformers looks up the attention of a layer by a name, and passes it the further arguments of its decoder. The names
below stand for its own implementations. They are called once for each row if the decoder got `packed_rows`, and once in
all otherwise. So a row costs the square of its own length, and no mask of the whole sequence is made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

MULTIPLE = 16
"""Positions of a sequence are filled up to a multiple of this, since a CPU prepares its products anew for each size."""


@dataclass(frozen=True)
class PackedRow:
    prefix: slice
    """Keys of the tokens before the row, whose states were kept."""
    own: slice
    """The row's own positions in the sequence."""


@dataclass
class PackedRows:
    rows: list[PackedRow]
    kept: int
    """Number of keys of all prefixes; the keys of the sequence follow them."""
    size: int
    """Positions of the sequence, with those that fill it up."""
    window_was_told: bool = False
    """Whether a layer has told the length of its window, or that it has no window."""
    _masks: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)

    @property
    def filling(self) -> int:
        """Positions behind the last row."""
        return self.size - self.rows[-1].own.stop

    def mask(self, queries: int, keys: int, window: int | None, like: Tensor, *, added: bool) -> Tensor | None:
        """The mask of the last queries of a row over all its keys, `[1, 1, queries, keys]`.

        :param window: number of keys that a query sees, with its own; None = all before it.
        :param added: whether the mask is added to the scores, in the dtype of `like`; otherwise it is true where a
            query sees a key.
        :returns: None where `sdpa` needs no mask.
        """
        seen = window is None or window >= keys
        if not added and seen and queries in (1, keys):
            return None
        name = (queries, keys, None if seen else window, added)
        if name not in self._masks:
            distance = torch.arange(keys - queries, keys, device=like.device).unsqueeze(1) - torch.arange(
                keys, device=like.device
            )
            mask = distance >= 0 if seen else (distance >= 0) & (distance < (window or keys))
            if added:
                mask = torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, torch.finfo(like.dtype).min)
            self._masks[name] = mask[None, None]
        return self._masks[name]


def pack(
    rows: Sequence[Tensor], prefixes: Sequence[slice], kept: int, size: int | None = None
) -> tuple[Tensor, PackedRows]:
    """
    :param rows: embeddings of each row, `[N, C]`.
    :param prefixes: see `PackedRow.prefix`, one for each row.
    :param size: positions that the sequence is filled up to; None = to the next multiple.
    :returns: the sequence `[1, positions, C]`, and the place of each row in it.
    """
    lengths = [len(row) for row in rows]
    filling = rows[0].new_zeros(-sum(lengths) % MULTIPLE if size is None else size - sum(lengths), rows[0].size(1))
    placed, start = [], 0
    for prefix, length in zip(prefixes, lengths, strict=True):
        placed.append(PackedRow(prefix, slice(start, start + length)))
        start += length
    sequence = torch.cat([*rows, filling]).unsqueeze(0)
    return sequence, PackedRows(placed, kept, sequence.size(1))


def _attend(
    implementation: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed_rows: PackedRows | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """An attention function of transformers: `[B, heads, T, dim]` -> `[B, T, heads, dim]`."""
    attend: Any = partial(_attend_sdpa, module)
    if implementation == "eager":  # each family has its own `eager`, with its caps and sinks
        attend = partial(vars(sys.modules[type(module).__module__])["eager_attention_forward"], module)
    if packed_rows is None:
        output: tuple[Tensor, Tensor | None] = attend(query, key, value, attention_mask, **options)
        return output
    packed_rows.window_was_told |= "sliding_window" in options
    options.pop("is_causal", None)  # it describes a mask of the whole sequence, which does not exist
    outputs = []
    for queries, keys, values in _apart(query, key, value, packed_rows):
        mask = packed_rows.mask(
            queries.size(2), keys.size(2), options.get("sliding_window"), query, added=implementation == "eager"
        )
        outputs.append(attend(queries, keys, values, mask, **options)[0])
    outputs.append(outputs[0].new_zeros(1, packed_rows.filling, *outputs[0].shape[2:]))
    return torch.cat(outputs, dim=1), None


def _apart(query: Tensor, key: Tensor, value: Tensor, packed: PackedRows) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values of each row."""
    # Of slices, each would make gradients of the whole sequence.
    sizes = [packed.kept, *(row.own.stop - row.own.start for row in packed.rows), packed.filling]
    queries, keys, values = query.split(sizes[1:], dim=2), key.split(sizes, dim=2), value.split(sizes, dim=2)
    for row, own_query, *own in zip(packed.rows, queries[:-1], keys[1:-1], values[1:-1], strict=True):
        if row.prefix.stop > row.prefix.start:
            whole = [torch.cat([x[0][:, :, row.prefix], y], dim=2) for x, y in zip((keys, values), own, strict=True)]
        else:
            whole = [x.contiguous() for x in own]
        # Contiguous, as a lone row is: with another layout in memory, products might be summed in another order.
        yield own_query.contiguous(), *whole


def _attend_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' own; in float32 for the gradients of half precision on a CPU. PyTorch's backward pass takes 3 to 5
    times as long in bfloat16 for rows of 50 to 150 positions (2.9.1 and 2.13.0, with AMX)."""
    if query.device.type != "cpu" or not (torch.is_grad_enabled() and query.requires_grad):
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    dtype = query.dtype
    if mask is not None and mask.is_floating_point():
        mask = mask.float()
    output, weights = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)
    return output.to(dtype), weights


NAMES: dict[str, str] = {"sdpa": "speechllm_sdpa", "eager": "speechllm_eager"}
"""For each attention of transformers, the name under which it takes packed rows."""

for _implementation, _name in NAMES.items():
    ALL_ATTENTION_FUNCTIONS.register(_name, partial(_attend, _implementation))
    ALL_MASK_ATTENTION_FUNCTIONS.register(_name, ALL_MASK_ATTENTION_FUNCTIONS[_implementation])
