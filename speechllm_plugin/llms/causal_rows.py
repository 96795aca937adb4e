"""The rows of a batch, as a decoder reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PretrainedConfig

from speechllm_plugin.llms.decoding import Generated
from speechllm_plugin.llms.generation import Search, generate_rows, stop_tokens
from speechllm_plugin.llms.greedy import search_greedily
from speechllm_plugin.llms.joining import pad_rows
from speechllm_plugin.llms.row_states import DecoderStates
from speechllm_plugin.workarounds.transformers_versions import CACHE

if TYPE_CHECKING:
    from speechllm_plugin.llms.causal import CausalLlm


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

    def __len__(self) -> int:
        return len(self._rows)

    def generate(self, rows: Sequence[int], search: Search, written: Sequence[int] = ()) -> list[Generated]:
        llm = self._llm
        if search.config.beam_size == 1:
            known = llm.embed_ids(written)
            inputs = [torch.cat([self._rows[row], known]) for row in rows]
            states = DecoderStates(llm, inputs, [self._prefixes[row] for row in rows])
            return search_greedily(states, llm.logits, search, self.stops, llm.device, written)
        whole = [torch.cat([llm.embed_ids(self._prefixes[row]), self._rows[row]]) for row in rows]
        padded, mask = pad_rows(whole, "left")
        return generate_rows(llm.model, llm.tokenizer, {"inputs_embeds": padded, "attention_mask": mask}, search)

    def hidden(self, row: int, tokens: Sequence[int]) -> Tensor:
        llm = self._llm
        cache, _, first = llm.prefix_cache([self._prefixes[row]])
        inputs = torch.cat([self._rows[row], llm.embed_ids(tokens)]).unsqueeze(0)
        positions = first.unsqueeze(1) + torch.arange(inputs.size(1), device=inputs.device)
        states: Tensor = llm.decoder(
            inputs_embeds=inputs, position_ids=positions, **{CACHE: cache}, use_cache=cache is not None
        ).last_hidden_state
        return states[0, -len(tokens) - 1 :]

    def logits(self, hidden: Tensor) -> Tensor:
        return self._llm.logits(hidden)


def _has_experts(config: PretrainedConfig) -> bool:
    return any("expert" in name and value for name, value in config.get_text_config().to_dict().items())
