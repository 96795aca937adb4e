"""What LLMs keep of the rows that they write: see `speechllm_plugin.llms.greedy.RowStates`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from speechllm_plugin.llms.joining import pad_rows
from speechllm_plugin.workarounds.transformers_versions import CACHE


class DecoderStates:
    """Of a decoder, which reads prompt and text in a row."""

    def __init__(
        self,
        decoder: Callable[..., Any],
        embed: Callable[[Tensor], Tensor],
        rows: Sequence[Tensor],
        prefix: tuple[DynamicCache | None, Tensor, Tensor],
    ) -> None:
        """
        :param decoder: embeddings to hidden states.
        :param rows: what follows each row's prefix, `[N, C]`, up to its last known token.
        :param prefix: cache, mask `[B, P]` and the positions that follow, `[B]`, of what comes before.
        """
        self._decoder, self._embed = decoder, embed
        cache, prefix_mask, first = prefix
        self._inputs, mask = pad_rows(rows, "left")
        self._positions = (mask.cumsum(dim=1) - 1).clamp(min=0) + first.unsqueeze(1)
        self._mask = torch.cat([prefix_mask, mask], dim=1)
        self._cache = DynamicCache() if cache is None else cache

    def begin(self) -> Tensor:
        return self._read(self._inputs, self._positions)

    def go_on(self, tokens: Tensor) -> Tensor:
        self._positions = self._positions[:, -1:] + 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return self._read(self._embed(tokens), self._positions)

    def keep(self, places: Tensor) -> None:
        self._positions, self._mask = self._positions[places], self._mask[places]
        self._cache.batch_select_indices(places)

    def _read(self, inputs: Tensor, positions: Tensor) -> Tensor:
        output = self._decoder(
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
