"""What LLMs keep of the rows that they write: see `speechllm_plugin.llms.greedy.RowStates`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from speechllm_plugin.llms.joining import pad_rows
from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.workarounds.transformers_versions import CACHE

if TYPE_CHECKING:
    from speechllm_plugin.llms.causal import CausalLlm


class DecoderStates:
    """Of a decoder, which reads prompt and text in a row."""

    def __init__(self, llm: CausalLlm, rows: Sequence[Tensor], prefixes: Sequence[tuple[int, ...]]) -> None:
        """
        :param rows: what follows each row's prefix, `[N, C]`, up to its last known token.
        :param prefixes: tokens before each, whose states are kept from batch to batch.
        """
        self._llm, self._rows, self._prefixes = llm, rows, prefixes
        self._cache: Any = DynamicCache()
        self._mask = self._positions = torch.empty(0)
        """Of the keys, `[B, K]`, and of the last tokens, `[B, 1]`."""

    def begin(self) -> Tensor:
        return self._begin_packed() if self._llm.worth_packing(self._rows) else self._begin_padded()

    def _begin_padded(self) -> Tensor:
        cache, prefix_mask, first = self._llm.prefix_cache(self._prefixes)
        inputs, mask = pad_rows(self._rows, "left")
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0) + first.unsqueeze(1)
        self._mask, self._positions = torch.cat([prefix_mask, mask], dim=1), positions[:, -1:]
        self._cache = self._cache if cache is None else cache
        return self._read(inputs, positions)

    def _begin_packed(self) -> Tensor:
        """Reads the rows one behind the other; from then on they stand below each other."""
        packed_cache = DynamicCache()
        states, packed = self._llm.packed_states(self._rows, self._prefixes, packed_cache)
        own = [slice(packed.kept + row.own.start, packed.kept + row.own.stop) for row in packed.rows]
        lengths = [len(prefix) + len(row) for prefix, row in zip(self._prefixes, self._rows, strict=True)]
        size, device = max(lengths), states[0].device
        layers: Any = packed_cache.layers  # typed as if they could be empty
        for index, layer in enumerate(layers):
            keys, values = (
                torch.cat([
                    F.pad(torch.cat([x[:, :, row.prefix], x[:, :, place]], dim=2), (0, 0, size - length, 0))
                    for row, place, length in zip(packed.rows, own, lengths, strict=True)
                ])
                for x in (layer.keys, layer.values)
            )
            self._cache.update(keys, values, index)
        counts = on_device(lengths, device).unsqueeze(1)
        self._mask = (torch.arange(size, device=device) >= size - counts).long()
        self._positions = counts - 1
        return torch.stack([row[-1] for row in states])

    def go_on(self, tokens: Tensor) -> Tensor:
        self._positions = self._positions + 1
        self._mask = F.pad(self._mask, (0, 1), value=1)
        return self._read(self._llm.embed(tokens), self._positions)

    def keep(self, places: Tensor) -> None:
        self._positions, self._mask = self._positions[places], self._mask[places]
        self._cache.batch_select_indices(places)

    def _read(self, inputs: Tensor, positions: Tensor) -> Tensor:
        output = self._llm.decoder(
            inputs_embeds=inputs, attention_mask=self._mask, position_ids=positions, **{CACHE: self._cache},
            use_cache=True,
        )  # fmt: skip
        last: Tensor = output.last_hidden_state[:, -1]
        return last


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

    def keep(self, places: Tensor) -> None:
        self._encoded, self._mask = self._encoded[places], self._mask[places]
        self._cache.batch_select_indices(places)
