"""The rows of a batch, as a decoder reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PretrainedConfig

from speechllm_plugin.llms.decoding import Generated
from speechllm_plugin.llms.exact import Block
from speechllm_plugin.llms.generation import Search, generate_rows, stop_tokens
from speechllm_plugin.llms.joining import PromptRow, pad_rows
from speechllm_plugin.llms.row_states import DecoderStates
from speechllm_plugin.llms.scaled_positions import unscaled_positions
from speechllm_plugin.llms.side_by_side import pass_rows
from speechllm_plugin.llms.states import States, cut_states, length_of

if TYPE_CHECKING:
    from speechllm_plugin.llms.causal_llm import CausalLlm

BLOCK, GPU_BLOCK = 16, 256
"""Places of a text that a pass over a row checks. Most texts end before they have as many tokens as they may, and a CPU
takes a time for each place. A GPU takes as long for many as for few."""


class CausalRows:
    """See `speechllm_plugin.llms.exact.Rows`."""

    joins = True

    def __init__(self, llm: CausalLlm, end_of_turn: int) -> None:
        self._llm = llm
        self._rows: dict[int, PromptRow] = {}
        self._numbers = count()
        self.stops = stop_tokens(llm.model.generation_config, llm.tokenizer, end_of_turn)
        self.dtype, self.device = llm.embedding_table.dtype, llm.device
        self.apart = not llm.pads
        # With experts, or int8, the rounding of a token depends on the tokens behind it.
        self.one_pass = not _has_experts(llm.model.config) and llm.config.quantization != "int8"
        self._unscaled = unscaled_positions(llm.model.config.get_text_config())
        self.block: int | None = BLOCK if llm.device.type == "cpu" else GPU_BLOCK
        self._shared: dict[tuple[int, ...], States] = {}
        """By prefix: an LLM that is trained keeps none itself."""
        self._prompts: dict[int, States] = {}
        self._checked: dict[int, States] = {}
        """Of prompts, and of the tokens of their rows up to the end of a block."""

    def add(self, rows: Sequence[PromptRow]) -> list[int]:
        numbers = list(islice(self._numbers, len(rows)))
        self._rows.update(zip(numbers, rows, strict=True))
        return numbers

    def scales(self, row: int, limit: int) -> bool:
        size = len(self._rows[row].prefix) + len(self._rows[row].embeddings) + limit
        return self._unscaled is not None and size > self._unscaled

    def forget(self, row: int) -> None:
        for known in (self._rows, self._prompts, self._checked):
            known.pop(row, None)
        left = {other.prefix for other in self._rows.values()}
        self._shared = {prefix: states for prefix, states in self._shared.items() if prefix in left}

    def beams(self, rows: Sequence[int], search: Search) -> list[Generated]:
        llm = self._llm
        whole = [torch.cat([llm.embed_ids(self._rows[row].prefix), self._rows[row].embeddings]) for row in rows]
        padded, mask = pad_rows(whole, "left")
        if self._unscaled is not None:
            llm.model(inputs_embeds=padded[:1, -1:])  # a short text makes it forget the longest one
        return generate_rows(llm.model, llm.tokenizer, {"inputs_embeds": padded, "attention_mask": mask}, search)

    def states(self, rows: Sequence[int]) -> DecoderStates:
        return DecoderStates(self._llm, [self._rows[row].embeddings for row in rows], self._prefixes_of(rows))

    def draft_states(self, rows: Sequence[int], written: Sequence[Sequence[int]]) -> DecoderStates:
        prompts = self._prompts_of(rows)
        inputs = [
            torch.cat([self._rows[row].embeddings[-1:], self._llm.embed_ids(text)])
            for row, text in zip(rows, written, strict=True)
        ]
        return DecoderStates(self._llm, inputs, prompts, packs=False)

    def hidden(self, rows: Sequence[int], blocks: Sequence[Block]) -> list[Tensor]:
        inputs, before = [], []
        for row, block, prompt in zip(rows, blocks, self._prompts_of(rows), strict=True):
            embedded = self._llm.embed_ids(block.tokens[max(block.start - 1, 0) :])
            inputs.append(embedded if block.start else torch.cat([self._rows[row].embeddings[-1:], embedded]))
            known = length_of(prompt) + block.start
            before.append(cut_states(self._checked[row], known) if block.start else prompt)
        found = []
        for row, (hidden, states) in zip(rows, pass_rows(self._llm, inputs, before), strict=True):
            self._checked[row] = states
            found.append(hidden)
        return found

    def _prompts_of(self, rows: Sequence[int]) -> list[States]:
        """Of the prompts but for their last positions, which call for the first tokens: what drafts and checks go on
        from."""
        missing = [row for row in rows if row not in self._prompts]
        before = self._prefixes_of(missing)
        known = dict(zip(missing, before, strict=True))
        embeddings = {row: self._rows[row].embeddings[:-1] for row in missing}
        if longer := [row for row in missing if len(embeddings[row])]:
            passes = pass_rows(self._llm, [embeddings[row] for row in longer], [known[row] for row in longer])
            known.update((row, states) for row, (_, states) in zip(longer, passes, strict=True))
        self._prompts.update(known)
        return [self._prompts[row] for row in rows]

    def _prefixes_of(self, rows: Sequence[int]) -> list[States]:
        """The same object for rows of one prefix."""
        prefixes = [self._rows[row].prefix for row in rows]
        for prefix in set(prefixes) - self._shared.keys():
            self._shared[prefix] = self._llm.prefix_states(prefix)
        return [self._shared[prefix] for prefix in prefixes]

    def logits(self, hidden: Tensor) -> Tensor:
        return self._llm.logits(hidden)


def _has_experts(config: PretrainedConfig) -> bool:
    return any("expert" in name and value for name, value in config.get_text_config().to_dict().items())
