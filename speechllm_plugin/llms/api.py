"""The contract of an LLM."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from speechllm_plugin.llms.batch import Batch
from speechllm_plugin.llms.cross_entropy import cross_entropy, sum_rows
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.joining import PromptRow
from speechllm_plugin.llms.positions import Positions
from speechllm_plugin.pretrained.part import PretrainedPart
from speechllm_plugin.prompts import RenderedPrompt
from speechllm_plugin.registry import LLMS as LLMS
from speechllm_plugin.tensors.copies import on_device


class Llm(PretrainedPart):
    """A pretrained LLM that takes speech embeddings among those of its prompt."""

    dim: int
    """Width of an input embedding."""
    vocabulary_size: int
    """Number of input embeddings, and of logits."""
    tokenizer: PreTrainedTokenizerBase
    chat: bool = True
    """Whether prompts are turns of the tokenizer's chat template; otherwise they are plain instructions."""
    positions: Positions | None = None
    """The LLM's positions; None = any number."""

    def prepare_training(self) -> None:
        """Runs the checks that only training needs. Called at most once, after the weights are read."""

    @property
    def shares_layers(self) -> bool:
        """Whether other processes have parts of its layers: see `sharding`."""
        return False

    def wait_for_others(self) -> None:
        """To be called behind passes without gradients: computes with the processes that share the layers until all of
        them are here."""

    @property
    @abstractmethod
    def embedding_table(self) -> Tensor:
        """Input embeddings, `[V, dim]`."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids, `[..., dim]`, without touching the rest of the table."""

    @abstractmethod
    def target_states(
        self, prompts: Sequence[RenderedPrompt], speech: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]]
    ) -> Tensor:
        """The states that predict the target tokens after prompt and speech.

        :param speech: `[B, T, dim]` with `lengths` `[B]`, on the host.
        :returns: `[N, C]`, for the N tokens of all targets, one target after the other.
        """

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """Logits of states, `[N, C]` -> `[N, V]`."""

    def loss(
        self, prompts: Sequence[RenderedPrompt], speech: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]]
    ) -> Tensor:
        """Cross entropy of the target tokens after prompt and speech; logits exist at target positions only.

        :param speech: `[B, T, dim]` with `lengths` `[B]`.
        :returns: the sum over the target tokens of each row, in nats, `[B]`.
        """
        return self.loss_of(self.target_states(prompts, speech, lengths, targets), targets)

    def loss_of(self, states: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        """`loss` from the result of `target_states`."""
        labels = on_device([token for target in targets for token in target], states.device)
        with self.precision(states.device.type):
            return sum_rows(cross_entropy(states, labels, self.logits, self.vocabulary_size), targets)

    @abstractmethod
    def prompt_rows(self, prompts: Sequence[RenderedPrompt], speech: Tensor, lengths: Tensor) -> list[PromptRow]:
        """What `running_batch` takes.

        :param speech: `[B, T, dim]` with `lengths` `[B]`, on the host.
        """

    @abstractmethod
    def running_batch(self, end_of_turn: int) -> Batch:
        """Without rows as yet. A row gives the same tokens alone and in any batch."""

    def generate(
        self,
        prompts: Sequence[RenderedPrompt],
        speech: Tensor,
        lengths: Tensor,
        *,
        keys: Sequence[str],
        limits: Sequence[int],
        end_of_turn: int,
        config: DecodingConfig,
    ) -> list[Generated]:
        """Decodes a batch.

        :param keys: a name for each row, the same wherever the row is decoded: samples follow from it and the seed.
        :param limits: the most tokens of each row.
        """
        batch = self.running_batch(end_of_turn)
        with torch.no_grad():
            rows = self.prompt_rows(prompts, speech, lengths)
        numbers = batch.add(rows, keys=keys, limits=limits, config=config)
        found = batch.finish()
        return [found[number] for number in numbers]

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """A description that differs between LLMs, for score files."""
