"""The contract of an LLM."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.positions import Positions
from speechllm_plugin.parts import PretrainedPart
from speechllm_plugin.prompts import RenderedPrompt
from speechllm_plugin.registry import Registry


class Llm(PretrainedPart):
    """A pretrained LLM that takes speech embeddings among those of its prompt."""

    dim: int
    """Width of an input embedding."""
    tokenizer: PreTrainedTokenizerBase
    chat: bool = True
    """Whether prompts are turns of the tokenizer's chat template; otherwise they are plain instructions."""
    positions: Positions | None = None
    """None = as many as wanted."""

    @property
    @abstractmethod
    def embedding_table(self) -> Tensor:
        """Input embeddings, `[V, dim]`."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids, `[..., dim]`, without touching the rest of the table."""

    @abstractmethod
    def loss(
        self, prompts: Sequence[RenderedPrompt], speech: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]]
    ) -> tuple[Tensor, int]:
        """Cross entropy of the target tokens after prompt and speech; logits exist at target positions only.

        :param speech: `[B, T, dim]` with `lengths` `[B]`.
        :returns: the sum over all target tokens in nats, and how many there are.
        """

    @abstractmethod
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
        """Decodes a batch; a row gives the same tokens alone and in any batch.

        :param keys: names each row, the same wherever it is decoded: samples follow from it and the seed.
        :param limits: the most tokens that each row may have.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells this LLM from another, for score files."""


LLMS: Registry[Llm] = Registry("llm", "speechllm_plugin.llms")
