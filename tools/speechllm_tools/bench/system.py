"""What the measured systems have in common: their widths, their clips, and what can be asked of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, LlamaForCausalLM

RATE = 16000
VOCABULARY = 49152
BEFORE, AFTER = 12, 12
"""Tokens of the prompt around the speech."""


@dataclass(frozen=True)
class Widths:
    """Widths of all systems, by the names in transformers' configurations of Whisper and of Llama."""

    what: str
    encoder: dict[str, Any]
    llm: dict[str, Any]


_LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
WIDTHS = {
    "tiny": Widths(
        "An encoder and an LLM of two layers",
        {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64},
        {**_LLAMA, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 128, "tie_word_embeddings": True},
    ),
    "small": Widths(
        "Whisper tiny's encoder, SmolLM2-135M's LLM",
        {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536},
        {**_LLAMA, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
         "intermediate_size": 1536, "tie_word_embeddings": True},
    ),
    "large": Widths(
        "Whisper large's encoder, Llama 3.1 8B's layers",
        {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120},
        {**_LLAMA, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "intermediate_size": 14336, "tie_word_embeddings": False},
    ),
}  # fmt: skip
"""Widths by the values of `--widths`."""


@dataclass(frozen=True)
class Clips:
    seconds: Sequence[float]
    target_tokens: int

    def waveforms(self) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([round(RATE * seconds) for seconds in self.seconds])
        generator = torch.Generator().manual_seed(0)
        noise = 0.1 * torch.randn(len(lengths), int(lengths.max()), generator=generator)
        return noise * (torch.arange(noise.size(1)) < lengths.unsqueeze(1)), lengths

    def tokens(self, count: int) -> list[int]:
        return [100 + i for i in range(count)]


class Shared:
    """The parts that systems are made with. On a GPU all systems share one LLM, since it would not hold one for
    each."""

    def __init__(self, widths: Widths) -> None:
        self.widths = widths
        self.llm = LlamaForCausalLM(AutoConfig.for_model(**widths.llm)).eval().requires_grad_(False)


class System:
    """A system to measure."""

    name: str
    dtype: torch.dtype
    encoder: nn.Module
    adapter: nn.Module
    llm: nn.Module

    @property
    def label(self) -> str:
        """Its name among systems of several precisions."""
        return label_of(self.name, self.dtype)

    @property
    def decoder(self) -> nn.Module:
        """The LLM without its head."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """A weight of the adapter, which tells the system's device and precision."""
        return next(self.adapter.parameters())

    def prepare(self, clips: Clips) -> None:
        """Makes a batch of the clips, which is not part of the step."""
        raise NotImplementedError

    def loss(self) -> Tensor:
        raise NotImplementedError

    def positions(self) -> int:
        """Positions of the LLM in a step, with padding."""
        raise NotImplementedError

    def real_positions(self) -> int:
        """Those that are neither padding nor the silence with which an encoder fills up a clip."""
        raise NotImplementedError

    def decode(self, tokens: int) -> int:
        """:returns: the number of tokens that were written in all rows."""
        raise NotImplementedError


def label_of(name: str, dtype: torch.dtype) -> str:
    return f"{name} ({name_of(dtype)})"


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
