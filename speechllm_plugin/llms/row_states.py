"""What LLMs keep of the rows that they write: see `speechllm_plugin.llms.greedy.RowStates`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from speechllm_plugin.llms.joining import pad_rows
from speechllm_plugin.llms.states import States, length_of, stack_states, states_of
from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.workarounds.transformers_versions import CACHE

if TYPE_CHECKING:
    from speechllm_plugin.llms.causal_llm import CausalLlm


class DecoderStates:
    """Of a decoder, which reads prompt and text in a row."""

    def __init__(
        self, llm: CausalLlm, rows: Sequence[Tensor], before: Sequence[States], *, packs: bool = True
    ) -> None:
        """
        :param rows: what follows, up to each row's last known token, `[N, C]`.
        :param before: the states of the positions before each.
        :param packs: whether the rows may be read one behind the other.
        """
        self._llm, self._rows, self._before, self._packs = llm, rows, before, packs
        self._cache: Any = DynamicCache()
        self._mask = self._positions = torch.empty(0)
        """Of the keys, `[B, K]`, and of the last tokens, `[B, 1]`."""
        self._spans: list[int] = []
        """Keys of each row from its first on: the others, which lie before, are padding."""

    def begin(self) -> Tensor:
        packs = self._packs and self._llm.worth_packing(self._rows)
        hidden = self._begin_packed() if packs else self._begin_padded()
        self._rows = self._before = ()
        return hidden

    def _begin_padded(self) -> Tensor:
        known = list(map(length_of, self._before))
        cache, known_mask, first = stack_states(self._before, known, self._llm.device)
        inputs, mask = pad_rows(self._rows, "left")
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0) + first.unsqueeze(1)
        self._mask, self._positions = torch.cat([known_mask, mask], dim=1), positions[:, -1:]
        self._cache = self._cache if cache is None else cache
        # With states before it, a short row has its padding behind these.
        self._spans = [
            count + inputs.size(1) if count else len(row) for count, row in zip(known, self._rows, strict=True)
        ]
        return self._read(inputs, positions)

    def _begin_packed(self) -> Tensor:
        """Reads the rows one behind the other; from then on they stand below each other."""
        hidden, packed, cache = self._llm.packed_pass(self._rows, self._before, keep=True)
        assert cache is not None
        own = [slice(packed.kept + row.own.start, packed.kept + row.own.stop) for row in packed.rows]
        lengths = [length_of(states) + len(row) for states, row in zip(self._before, self._rows, strict=True)]
        size, device = max(lengths), hidden.device
        for index, layer in enumerate(states_of(cache)):
            keys, values = (
                torch.cat([
                    _with_keys(torch.cat([x[:, :, row.prefix], x[:, :, place]], dim=2), size)
                    for row, place in zip(packed.rows, own, strict=True)
                ])
                for x in layer
            )
            self._cache.update(keys, values, index)
        counts = on_device(lengths, device).unsqueeze(1)
        self._mask = (torch.arange(size, device=device) >= size - counts).long()
        self._positions, self._spans = counts - 1, lengths
        return torch.stack([hidden[row.own.stop - 1] for row in packed.rows])

    def go_on(self, tokens: Tensor) -> Tensor:
        self._positions = self._positions + 1
        if (room := self._llm.positions) is not None and room.table:
            # A row that has ended may stay for some steps, and would count on behind the end of the table.
            self._positions = self._positions.clamp(max=room.limit - 1)
        self._mask = F.pad(self._mask, (0, 1), value=1)
        self._spans = [span + 1 for span in self._spans]
        return self._read(self._llm.embed(tokens), self._positions)

    def keep(self, places: Sequence[int]) -> None:
        chosen = on_device(list(places), self._mask.device)
        self._cache.batch_select_indices(chosen)
        self._mask, self._positions = self._mask[chosen], self._positions[chosen]
        self._spans = [self._spans[place] for place in places]

    def join(self, others: DecoderStates) -> None:
        self._spans = [*self._spans, *others._spans]
        size = max(self._spans)  # what is padding for all is cut off
        for layer, other in zip(self._cache.layers, others._cache.layers, strict=True):
            layer.keys = torch.cat([_with_keys(x, size) for x in (layer.keys, other.keys)])
            layer.values = torch.cat([_with_keys(x, size) for x in (layer.values, other.values)])
        self._mask = torch.cat([F.pad(x, (size - x.size(1), 0)) for x in (self._mask, others._mask)])
        self._positions = torch.cat([self._positions, others._positions])

    def _read(self, inputs: Tensor, positions: Tensor) -> Tensor:
        output = self._llm.decoder(
            inputs_embeds=inputs, attention_mask=self._mask, position_ids=positions, **{CACHE: self._cache},
            use_cache=True,
        )  # fmt: skip
        last: Tensor = output.last_hidden_state[:, -1]
        return last


def _with_keys(states: Tensor, size: int) -> Tensor:
    """`[B, heads, P, dim]` -> `[B, heads, size, dim]`: padding is on the left, and so is what is cut off."""
    return F.pad(states, (0, 0, size - states.size(2), 0))


class EncoderDecoderStates:
    """Of a decoder that writes about what an encoder has read."""

    def __init__(self, decoder: Callable[..., Any], encoded: Tensor, mask: Tensor, tokens: Tensor) -> None:
        """
        :param decoder: token ids to hidden states.
        :param encoded: `[B, T, C]` with its mask `[B, T]`.
        :param tokens: what each row has written, its start among it, `[B, N]`.
        """
        self._decoder = decoder
        self._encoded, self._mask, self._tokens = encoded, mask, tokens
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def begin(self) -> Tensor:
        return self.go_on(self._tokens)

    def go_on(self, tokens: Tensor) -> Tensor:
        output = self._decoder(
            input_ids=tokens, encoder_hidden_states=self._encoded, encoder_attention_mask=self._mask,
            **{CACHE: self._cache}, use_cache=True,
        )  # fmt: skip
        last: Tensor = output.last_hidden_state[:, -1]
        return last

    def keep(self, places: Sequence[int]) -> None:
        chosen = on_device(list(places), self._mask.device)
        self._encoded, self._mask = self._encoded[chosen], self._mask[chosen]
        self._cache.batch_select_indices(chosen)

    def join(self, others: EncoderDecoderStates) -> None:
        # T5's decoder takes no padding: all rows have written as many tokens.
        raise NotImplementedError
