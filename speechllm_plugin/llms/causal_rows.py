"""The rows of a batch, as a decoder reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig

from speechllm_plugin.llms.decoding import Generated
from speechllm_plugin.llms.generation import Search, generate_rows, stop_tokens
from speechllm_plugin.llms.greedy import search_greedily
from speechllm_plugin.llms.joining import pad_rows
from speechllm_plugin.llms.states import States, cache_of, stack_states, states_of
from speechllm_plugin.workarounds.transformers_versions import CACHE

if TYPE_CHECKING:
    from speechllm_plugin.llms.causal import CausalLlm

BLOCK = 16
"""Places of a text that a pass over a row checks, on a CPU: most texts end before they have as many tokens as they may.
A GPU takes all that a text may have in the time of one block."""


class CausalRows:
    """See `speechllm_plugin.llms.exact.Rows`."""

    def __init__(
        self, llm: CausalLlm, rows: Sequence[Tensor], end_of_turn: int, prefixes: Sequence[tuple[int, ...]] = ()
    ) -> None:
        """
        :param rows: prompt and speech of each, `[N, C]`.
        :param prefixes: tokens before each, whose states are kept from batch to batch; () = none.
        """
        self._llm = llm
        self._rows = rows
        self._prefixes = prefixes or [()] * len(rows)
        self.stops = stop_tokens(llm.model, llm.tokenizer, end_of_turn)
        self.dtype = llm.embedding_table.dtype
        self.apart = not llm.pads
        # With experts, or int8, the rounding of a token depends on the tokens behind it.
        self.one_pass = not _has_experts(llm.model.config) and llm.config.quantization != "int8"
        self.block = BLOCK if llm.device.type == "cpu" else None
        self._shared: dict[tuple[int, ...], States] = {}
        """By prefix: an LLM that is trained keeps none itself."""
        self._prompts: dict[int, States] = {}
        self._checked: dict[int, DynamicCache] = {}
        """Of rows that are checked: their prompt, and their tokens up to some block."""

    def __len__(self) -> int:
        return len(self._rows)

    def generate(self, rows: Sequence[int], search: Search) -> list[Generated]:
        llm = self._llm
        if search.config.beam_size == 1:
            prefix = llm.prefix_cache([self._prefixes[row] for row in rows])
            inputs = [self._rows[row] for row in rows]
            return search_greedily(llm.decoder, llm.logits, llm.embed, inputs, prefix, search, self.stops)
        whole = [torch.cat([llm.embed_ids(self._prefixes[row]), self._rows[row]]) for row in rows]
        padded, mask = pad_rows(whole, "left")
        return generate_rows(llm.model, llm.tokenizer, {"inputs_embeds": padded, "attention_mask": mask}, search)

    def draft(self, rows: Sequence[int], search: Search, written: Sequence[Sequence[int]]) -> list[Generated]:
        llm = self._llm
        prefix = stack_states([self._prompt(row) for row in rows], [self._before(row) for row in rows], llm.device)
        inputs = [
            torch.cat([self._rows[row][-1:], llm.embed_ids(text)]) for row, text in zip(rows, written, strict=True)
        ]
        continued = written if any(written) else None
        return search_greedily(llm.decoder, llm.logits, llm.embed, inputs, prefix, search, self.stops, continued)

    def hidden(self, row: int, start: int, tokens: Sequence[int]) -> Tensor:
        if row not in self._checked:
            self._checked[row] = cache_of(self._prompt(row))
        cache = self._checked[row]
        cache.crop(self._before(row) + start)
        inputs = self._llm.embed_ids(tokens[max(start - 1, 0) :])
        return self._pass(inputs if start else torch.cat([self._rows[row][-1:], inputs]), cache)

    def _before(self, row: int) -> int:
        """Positions of the prompt but for its last, which calls for the first token."""
        return len(self._prefixes[row]) + len(self._rows[row]) - 1

    def _prompt(self, row: int) -> States:
        """Of all these positions: what drafts and checks of the row go on from."""
        if row not in self._prompts:
            prefix = self._prefixes[row]
            if prefix not in self._shared:
                self._shared[prefix] = self._llm.prefix_states(prefix)
            cache = cache_of(self._shared[prefix])
            if self._before(row) > cache.get_seq_length():
                self._pass(self._rows[row][:-1], cache)
            self._prompts[row] = states_of(cache)
        return self._prompts[row]

    def _pass(self, inputs: Tensor, cache: DynamicCache) -> Tensor:
        """Hidden states of embeddings, `[N, C]`, behind the positions of a cache, to which theirs are added."""
        first = cache.get_seq_length()
        positions = torch.arange(first, first + len(inputs), device=inputs.device).unsqueeze(0)
        states: Tensor = self._llm.decoder(
            inputs_embeds=inputs.unsqueeze(0), position_ids=positions, **{CACHE: cache}, use_cache=True
        ).last_hidden_state
        return states[0]

    def logits(self, hidden: Tensor) -> Tensor:
        return self._llm.logits(hidden)


def _has_experts(config: PretrainedConfig) -> bool:
    return any("expert" in name and value for name, value in config.get_text_config().to_dict().items())
