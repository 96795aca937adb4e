"""`base`: four Transformer layers and no compression (arXiv 2409.17044, section 2, "Base")."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from speechllm_plugin.adapters.api import (
    ADAPTERS,
    Adapter,
    AdapterOutput,
    AdapterShape,
    FrameClassifier,
    output_norm,
)
from speechllm_plugin.adapters.bert import BertLayers
from speechllm_plugin.masks import length_mask, zero_padding


@dataclass(kw_only=True)
class BaseConfig:
    num_layers: int = 4
    """Transformer layers (the paper's 4)."""
    dim: int = 768
    """Width of the layers (BERT-base)."""
    num_heads: int = 12
    """Attention heads (BERT-base)."""
    ffn_dim: int = 3072
    """Width inside the feed-forward blocks (BERT-base)."""
    dropout: float = 0.1
    """Dropout of the layers and on the attention weights (BERT-base)."""


class BaseAdapter(Adapter):
    def __init__(self, config: BaseConfig, shape: AdapterShape) -> None:
        super().__init__()
        self.frame_dim = config.dim
        self.input = nn.Linear(shape.encoder_dim, config.dim)
        self.input_norm = nn.LayerNorm(config.dim)
        self.layers = BertLayers(
            config.num_layers, config.dim, config.num_heads, config.ffn_dim, config.dropout
        )
        self.output = nn.Linear(config.dim, shape.llm_dim)
        self.norm = output_norm(shape)

    def forward(
        self,
        seqs: Tensor,
        lengths: Tensor,
        target_lengths: Tensor | None = None,
        classify: FrameClassifier | None = None,
    ) -> AdapterOutput:
        frames = self.input_norm(self.input(zero_padding(seqs, lengths)))
        frames = self.layers(frames, lengths)
        seqs = self.norm(self.output(frames))
        return AdapterOutput(
            seqs * length_mask(lengths, seqs.size(1)).unsqueeze(-1),
            lengths,
            frame_logits=classify(frames, lambda _: seqs) if classify else None,
            frame_lengths=lengths,
        )

    def output_rate(self, frame_rate: float) -> float:
        return frame_rate


ADAPTERS.register("base", BaseConfig, BaseAdapter)
