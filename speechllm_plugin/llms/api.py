"""The contract of an LLM."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fairseq2.utils.validation import ValidationResult
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from speechllm_plugin.prompts import RenderedPrompt
from speechllm_plugin.registry import Registry


@dataclass(kw_only=True)
class DecodingConfig:
    beam_size: int = 1
    """1 = greedy."""
    tokens_per_second: float = 12.0
    """A hypothesis may have this many tokens per second of audio, plus `extra_tokens`; then it is ended. Fast speech
    has about 5 words, some 8 tokens, a second."""
    extra_tokens: int = 16
    """See `tokens_per_second`."""
    repetition_penalty: float = 1.0
    """1 = none; above 1 discourages tokens already said (arXiv 1909.05858)."""
    no_repeat_ngram_size: int = 0
    """0 = off; otherwise no n-gram of this many tokens occurs twice in a hypothesis."""

    def validate(self) -> ValidationResult:
        result = ValidationResult()
        limits = (("beam_size", 1), ("tokens_per_second", 0), ("extra_tokens", 1), ("no_repeat_ngram_size", 0))
        for name, least in limits:
            if getattr(self, name) < least:
                result.add_error(f"`{name}` must be at least {least}, but is {getattr(self, name)} instead.")
        if self.repetition_penalty <= 0:
            result.add_error(f"`repetition_penalty` must be above 0, but is {self.repetition_penalty} instead.")
        return result


@dataclass(frozen=True)
class Generated:
    """One hypothesis: its tokens without the end of the turn, and whether the length limit ended it."""

    tokens: list[int]
    cut: bool


class Llm(nn.Module):
    """A frozen LLM that takes speech embeddings among those of its prompt."""

    dim: int
    """Width of an input embedding."""
    tokenizer: PreTrainedTokenizerBase

    @property
    @abstractmethod
    def embedding_table(self) -> Tensor:
        """Input embeddings, `[V, dim]`."""

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
        limits: Sequence[int],
        end_of_turn: int,
        config: DecodingConfig,
    ) -> list[Generated]:
        """Decodes a batch; a row gives the same tokens alone and in any batch.

        :param limits: the most tokens that each row may have.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells this LLM from another, for score files."""


LLMS: Registry[Llm] = Registry("llm", ("speechllm_plugin.llms.causal",))

Dtype = Literal["float32", "bfloat16", "float16"]
