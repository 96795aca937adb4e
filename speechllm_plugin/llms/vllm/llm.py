"""A decoder-only LLM that vLLM runs: only its tokenizer and its input embeddings are here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase

from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.causal_checks import check_architecture
from speechllm_plugin.llms.causal_llm import CausalLlmConfig
from speechllm_plugin.llms.generation import stop_tokens
from speechllm_plugin.llms.joining import PromptRow, join_rows
from speechllm_plugin.llms.positions import positions_of
from speechllm_plugin.llms.vllm.batch import ServedBatch
from speechllm_plugin.llms.vllm.probe import find_model, find_scale
from speechllm_plugin.llms.vllm.server import VllmServer
from speechllm_plugin.pretrained import Source, load_tokenizer, source_identity
from speechllm_plugin.pretrained.identity import identity_of
from speechllm_plugin.pretrained.input_embeddings import load_input_embeddings
from speechllm_plugin.prompts import RenderedPrompt
from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.tensors.precision import part_dtype


class ServedLlm(Llm):
    def __init__(
        self,
        config: CausalLlmConfig,
        embedding: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        generation: GenerationConfig | None,
        server: VllmServer,
    ) -> None:
        """
        :param embedding: marked with the identity of the LLM's weights.
        :param generation: the checkpoint's.
        :raises UserError: the server is not there, has another LLM, or takes no embeddings.
        """
        super().__init__()
        self.config, self.embedding, self.tokenizer, self.server = config, embedding, tokenizer, server
        self.vocabulary_size, self.dim = self._weight.shape
        self._generation = generation
        self.served = find_model(server, str(identity_of(self)), config.path)
        self._scale = find_scale(server, self.served, self._embed_ids, self.vocabulary_size)
        """Of vLLM's embeddings relative to ours: transformers scales those of some LLMs later."""

    @property
    def _weight(self) -> Tensor:
        weight = self.embedding.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def embedding_table(self) -> Tensor:
        scale = getattr(self.embedding, "embed_scale", None)
        return self._weight if scale is None else self._weight * scale

    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(ids)
        return embedded

    def _embed_ids(self, ids: Sequence[int]) -> Tensor:
        return self.embed(on_device(ids, self._weight.device, torch.long))

    def target_states(
        self, prompts: Sequence[RenderedPrompt], speech: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]]
    ) -> NoReturn:
        raise NotImplementedError("the layers are in vLLM, which gives no states")

    def logits(self, states: Tensor) -> NoReturn:
        raise NotImplementedError("the head is in vLLM")

    def prompt_rows(self, prompts: Sequence[RenderedPrompt], speech: Tensor, lengths: Tensor) -> list[PromptRow]:
        return [PromptRow(row * self._scale) for row in join_rows(self._embed_ids, prompts, speech, lengths)]

    def running_batch(self, end_of_turn: int) -> ServedBatch:
        return ServedBatch(self.server, self.served, stop_tokens(self._generation, self.tokenizer, end_of_turn))

    def identity(self) -> dict[str, Any]:
        return {"llm": "vllm", "source": source_identity(self.config.path), **vars(self.config)}


def load_served_llm(config: CausalLlmConfig, server: VllmServer) -> ServedLlm:
    """
    :raises UserError: the checkpoint cannot be loaded, or see `ServedLlm`.
    """
    source = Source.of("llm", config.path)
    embedding, model = load_input_embeddings(AutoModelForCausalLM, source, part_dtype(config))
    check_architecture(type(model), model.config, config.path)
    llm = ServedLlm(config, embedding, load_tokenizer(source), model.generation_config, server)
    llm.positions = positions_of(model, model.config.get_text_config())
    return llm
