"""The rows of a batch, as a decoder reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PretrainedConfig

from speechllm_plugin.llms.decoding import Generated
from speechllm_plugin.llms.exact import Block
from speechllm_plugin.llms.generation import Search, generate_rows, stop_tokens
from speechllm_plugin.llms.greedy import search_greedily
from speechllm_plugin.llms.joining import pad_rows
from speechllm_plugin.llms.row_states import DecoderStates
from speechllm_plugin.llms.side_by_side import pass_rows
from speechllm_plugin.llms.states import States, cut_states, length_of, stack_states

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
        self._checked: dict[int, States] = {}
        """Of prompts, and of the tokens of their rows up to the end of a block."""

    def __len__(self) -> int:
        return len(self._rows)

    def generate(self, rows: Sequence[int], search: Search) -> list[Generated]:
        llm = self._llm
        if search.config.beam_size == 1:
            states = DecoderStates(llm, [self._rows[row] for row in rows], [self._prefixes[row] for row in rows])
            return search_greedily(states, llm.logits, search, self.stops, llm.device)
        whole = [torch.cat([llm.embed_ids(self._prefixes[row]), self._rows[row]]) for row in rows]
        padded, mask = pad_rows(whole, "left")
        return generate_rows(llm.model, llm.tokenizer, {"inputs_embeds": padded, "attention_mask": mask}, search)

    def draft(self, rows: Sequence[int], search: Search, written: Sequence[Sequence[int]]) -> list[Generated]:
        llm, prompts = self._llm, self._prompts_of(rows)
        before = stack_states(prompts, list(map(length_of, prompts)), llm.device)
        inputs = [
            torch.cat([self._rows[row][-1:], llm.embed_ids(text)]) for row, text in zip(rows, written, strict=True)
        ]
        states = DecoderStates(llm, inputs, before=before)
        return search_greedily(states, llm.logits, search, self.stops, llm.device, written)

    def hidden(self, rows: Sequence[int], blocks: Sequence[Block]) -> list[Tensor]:
        inputs, before = [], []
        for row, block, prompt in zip(rows, blocks, self._prompts_of(rows), strict=True):
            embedded = self._llm.embed_ids(block.tokens[max(block.start - 1, 0) :])
            inputs.append(embedded if block.start else torch.cat([self._rows[row][-1:], embedded]))
            known = length_of(prompt) + block.start
            before.append(cut_states(self._checked[row], known) if block.start else prompt)
        found = []
        for row, (hidden, states) in zip(rows, pass_rows(self._llm, inputs, before), strict=True):
            if self.block is not None:  # otherwise one pass checks the whole text
                self._checked[row] = states
            found.append(hidden)
        return found

    def _prompts_of(self, rows: Sequence[int]) -> list[States]:
        """Of the prompts but for their last positions, which call for the first tokens: what drafts and checks go on
        from."""
        missing = [row for row in rows if row not in self._prompts]
        for prefix in {self._prefixes[row] for row in missing} - self._shared.keys():
            self._shared[prefix] = self._llm.prefix_states(prefix)
        self._prompts.update((row, self._shared[self._prefixes[row]]) for row in missing)
        if longer := [row for row in missing if len(self._rows[row]) > 1]:
            passes = pass_rows(
                self._llm, [self._rows[row][:-1] for row in longer], [self._prompts[row] for row in longer]
            )
            self._prompts.update((row, states) for row, (_, states) in zip(longer, passes, strict=True))
        return [self._prompts[row] for row in rows]

    def logits(self, hidden: Tensor) -> Tensor:
        return self._llm.logits(hidden)


def _has_experts(config: PretrainedConfig) -> bool:
    return any("expert" in name and value for name, value in config.get_text_config().to_dict().items())
