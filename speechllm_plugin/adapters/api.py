"""The contract of an adapter."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from speechllm_plugin.registry import Registry


@dataclass(frozen=True)
class AdapterShape:
    """What an adapter must fit."""

    encoder_dim: int
    """Width of the encoder's features."""
    llm_dim: int
    """Width of the LLM's input embeddings."""
    output_rms: float = 1.0
    """Root mean square of the LLM's input embeddings: the scale at which an adapter's output starts."""


@dataclass(frozen=True)
class AdapterOutput:
    seqs: Tensor
    """Speech embeddings, `[B, U, llm_dim]`, zeros beyond each length."""
    lengths: Tensor
    """`[B]`, int64; at least 1 for every clip."""
    frames: Tensor
    """What an auxiliary CTC head reads: the frames before any learnt compression, `[B, T, frame_dim]`."""
    frame_lengths: Tensor
    """`[B]`, int64."""


class Adapter(nn.Module):
    """Padding never changes a result: what lies beyond a length is not read."""

    frame_dim: int
    """Width of `AdapterOutput.frames`."""

    @abstractmethod
    def forward(self, seqs: Tensor, lengths: Tensor, target_lengths: Tensor | None = None) -> AdapterOutput:
        """
        :param seqs: encoder features, `[B, T, encoder_dim]`.
        :param lengths: `[B]`, int64, at least 1.
        :param target_lengths: `[B]`, tokens of each answer, in training only.
        """

    def output_rate(self, frame_rate: float) -> float | None:
        """Speech embeddings per second (Hz) for an encoder's frame rate; None where it depends on the content."""
        return None


ADAPTERS: Registry[Adapter] = Registry(
    "adapter", ("speechllm_plugin.adapters.mlp", "speechllm_plugin.adapters.base")
)


def output_norm(shape: AdapterShape) -> nn.LayerNorm:
    """The LayerNorm that ends every adapter, its gain at the scale of the LLM's own embeddings.

    Started at gain 1 the speech would be ten to a hundred times longer than any word.
    """
    norm = nn.LayerNorm(shape.llm_dim)
    nn.init.constant_(norm.weight, shape.output_rms)
    return norm

