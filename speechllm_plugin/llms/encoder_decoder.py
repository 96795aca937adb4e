"""Encoder-decoder LLMs of the T5 family, as in SLM (arXiv 2310.00230): mT0, mT5, T5, UMT5.

The encoder reads the instruction with the speech among its embeddings; the decoder writes the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import LLMS, Llm
from speechllm_plugin.llms.decoding import Generated
from speechllm_plugin.llms.exact import Block
from speechllm_plugin.llms.generation import Search, generate_rows, stop_tokens
from speechllm_plugin.llms.joining import PromptRow, join_rows, pad_rows
from speechllm_plugin.llms.row_states import EncoderDecoderStates
from speechllm_plugin.llms.running import RunningBatch
from speechllm_plugin.pretrained import Source, config_values, load_model, load_tokenizer, source_identity
from speechllm_plugin.prompts import RenderedPrompt
from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.tensors.precision import part_dtype
from speechllm_plugin.workarounds.transformers_versions import scales_decoder_output

MODEL_TYPES = ("mt5", "t5", "umt5")


@dataclass(kw_only=True)
class EncoderDecoderLlmConfig:
    path: str = "bigscience/mt0-xxl-mt"
    """Hugging Face hub id, or a local directory in the same format."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of weights and activations. `auto`: bfloat16 where the machine multiplies it, else float32. The
    family was trained in bfloat16, and its activations are beyond what float16 holds."""


class EncoderDecoderLlm(Llm):
    """A frozen LLM computes in the dtype of its weights, also under autocast: the same in training and in decoding.
    """

    chat = False

    def __init__(
        self, config: EncoderDecoderLlmConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.tokenizer = tokenizer
        self.vocabulary_size, self.dim = self.embedding_table.shape

    @property
    def embedding_table(self) -> Tensor:
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def start_token(self) -> int:
        """The decoder's first token: in this family the padding token."""
        token = self.model.config.decoder_start_token_id
        assert isinstance(token, int)
        return token

    def target_states(
        self, prompts: Sequence[RenderedPrompt], speech: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]]
    ) -> Tensor:
        with self.precision(speech.device.type):
            inputs, mask = pad_rows(join_rows(self._embed, prompts, speech, lengths), "right")
            model: Any = self.model
            encoded = model.get_encoder()(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
            size = max(map(len, targets))
            shifted = [[self.start_token, *target[:-1], *[0] * (size - len(target))] for target in targets]
            ids = on_device(shifted, inputs.device)  # (B, target)
            # The decoder only looks back, so that padding on the right needs no mask.
            hidden = model.get_decoder()(
                input_ids=ids, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False
            ).last_hidden_state
            return torch.cat([row[: len(target)] for row, target in zip(hidden, targets, strict=True)])

    def logits(self, states: Tensor) -> Tensor:
        if scales_decoder_output(self.model.config):  # T5 1.0, whose embeddings are too large for a head
            states = states * self.dim**-0.5
        head: Any = self.model.get_output_embeddings()
        return head(states)

    def embed(self, ids: Tensor) -> Tensor:
        embed: Any = self.model.get_input_embeddings()
        return embed(ids)

    def _embed(self, ids: Sequence[int]) -> Tensor:
        return self.embed(on_device(ids, self.embedding_table.device, torch.long))

    def prompt_rows(self, prompts: Sequence[RenderedPrompt], speech: Tensor, lengths: Tensor) -> list[PromptRow]:
        return [PromptRow(row) for row in join_rows(self._embed, prompts, speech, lengths)]

    def running_batch(self, end_of_turn: int) -> RunningBatch:
        return RunningBatch(EncoderDecoderRows(self, end_of_turn), end_of_turn, self.start_token)

    def identity(self) -> dict[str, Any]:
        return {"llm": "encoder_decoder", "source": source_identity(self.config.path), **vars(self.config)}


class EncoderDecoderRows:
    """See `speechllm_plugin.llms.exact.Rows`."""

    apart, one_pass = False, True  # T5's family keeps to its mask and has no experts
    joins = False
    block: int | None = None

    def __init__(self, llm: EncoderDecoderLlm, end_of_turn: int) -> None:
        self._llm = llm
        self._model: Any = llm.model
        self._rows: dict[int, Tensor] = {}
        """Instruction and speech of each, `[N, C]`."""
        self._numbers = count()
        self._encodings: dict[int, Tensor] = {}
        self.stops = stop_tokens(llm.model.generation_config, llm.tokenizer, end_of_turn)
        self.dtype, self.device = llm.embedding_table.dtype, llm.embedding_table.device

    def add(self, rows: Sequence[PromptRow]) -> list[int]:
        numbers = list(islice(self._numbers, len(rows)))
        self._rows.update((number, row.embeddings) for number, row in zip(numbers, rows, strict=True))
        return numbers

    def scales(self, row: int, limit: int) -> bool:
        return False

    def forget(self, row: int) -> None:
        self._rows.pop(row, None)
        self._encodings.pop(row, None)

    def beams(self, rows: Sequence[int], search: Search) -> list[Generated]:
        inputs, mask = pad_rows([self._rows[row] for row in rows], "right")
        embeddings = {"inputs_embeds": inputs, "attention_mask": mask}
        return generate_rows(self._llm.model, self._llm.tokenizer, embeddings, search)

    def states(self, rows: Sequence[int]) -> EncoderDecoderStates:
        return self.draft_states(rows, [()] * len(rows))

    def draft_states(self, rows: Sequence[int], written: Sequence[Sequence[int]]) -> EncoderDecoderStates:
        inputs, mask = pad_rows([self._rows[row] for row in rows], "right")
        encoded = self._encoded(rows[0]) if len(rows) == 1 else self._model.get_encoder()(
            inputs_embeds=inputs, attention_mask=mask
        ).last_hidden_state  # fmt: skip
        tokens = on_device([[self._llm.start_token, *text] for text in written], self.device)
        return EncoderDecoderStates(self._model.get_decoder(), encoded, mask, tokens)

    def _encoded(self, row: int) -> Tensor:
        """The encoder's states of a row alone, `[1, T, C]`."""
        if row not in self._encodings:
            encoder = self._model.get_encoder()
            self._encodings[row] = encoder(inputs_embeds=self._rows[row].unsqueeze(0)).last_hidden_state
        return self._encodings[row]

    def hidden(self, rows: Sequence[int], blocks: Sequence[Block]) -> list[Tensor]:
        return [self._hidden(row, block.tokens)[block.start :] for row, block in zip(rows, blocks, strict=True)]

    def _hidden(self, row: int, tokens: Sequence[int]) -> Tensor:
        model, encoded = self._model, self._encoded(row)
        ids = on_device([[self._llm.start_token, *tokens]], encoded.device)
        states = model.get_decoder()(input_ids=ids, encoder_hidden_states=encoded, use_cache=False).last_hidden_state
        return states[0]

    def logits(self, hidden: Tensor) -> Tensor:
        return self._llm.logits(hidden)


def check_encoder_decoder_llm(config: EncoderDecoderLlmConfig) -> None:
    """:raises UserError: there is no such checkpoint, or it is of another family."""
    source = Source.of("llm", config.path)
    found = config_values(source)["model_type"]
    if found not in MODEL_TYPES:
        raise UserError(f"{source} holds a model of type {found!r}, expected one of {', '.join(MODEL_TYPES)}")


def outline_encoder_decoder_llm(
    config: EncoderDecoderLlmConfig, hf_config: Any, dtype: torch.dtype
) -> EncoderDecoderLlm:
    no_tokenizer: Any = None
    return EncoderDecoderLlm(config, AutoModelForSeq2SeqLM.from_config(hf_config, dtype=dtype), no_tokenizer)


def create_encoder_decoder_llm(config: EncoderDecoderLlmConfig) -> EncoderDecoderLlm:
    """
    :raises UserError: the checkpoint cannot be loaded, or is of another family.
    """
    check_encoder_decoder_llm(config)
    source = Source.of("llm", config.path)
    tokenizer = load_tokenizer(source)
    model = load_model(AutoModelForSeq2SeqLM, source, dtype=part_dtype(config))
    return EncoderDecoderLlm(config, model, tokenizer)


LLMS.register(
    "encoder_decoder", EncoderDecoderLlmConfig, create_encoder_decoder_llm,
    outline=outline_encoder_decoder_llm, model_types=MODEL_TYPES, check=check_encoder_decoder_llm,
)  # fmt: skip
