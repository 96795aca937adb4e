"""Transformer layers with BERT-base's hyper-parameters (arXiv 1810.04805): what the published adapters are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from speechllm_plugin.adapters.option_checks import check_at_least, check_dropout, setting_error
from speechllm_plugin.tensors.masks import length_mask
from speechllm_plugin.workarounds.transformers_versions import states_of

INITIALIZER_STD = 0.02
"""Standard deviation of the weights at the start (BERT)."""


@dataclass(kw_only=True)
class BertSizes:
    """The part of an adapter's configuration that says what its Transformer layers are."""

    dim: int = 768
    """Width of the layers (BERT-base)."""
    num_heads: int = 12
    """Attention heads (BERT-base)."""
    ffn_dim: int = 3072
    """Width inside the feed-forward blocks (BERT-base)."""
    dropout: float = 0.1
    """Dropout of the layers and on the attention weights (BERT-base)."""

    def hf_options(self, num_layers: int) -> dict[str, Any]:
        """Options of transformers' configurations of BERT-like layers, which all call them the same."""
        return {
            "hidden_size": self.dim,
            "num_hidden_layers": num_layers,
            "num_attention_heads": self.num_heads,
            "intermediate_size": self.ffn_dim,
            "hidden_act": "gelu",
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
            "layer_norm_eps": 1e-12,
        }


class BertLayers(nn.Module):
    """Bidirectional post-LayerNorm layers without position embeddings: the encoder's features carry position.

    4 layers of width 768 hold 28.351 M parameters, as in arXiv 2409.17044, table II.
    """

    def __init__(self, num_layers: int, sizes: BertSizes) -> None:
        super().__init__()
        config = BertConfig(**sizes.hf_options(num_layers), attn_implementation="sdpa")
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(num_layers))
        init_linears(self)

    def forward(self, seqs: Tensor, lengths: Tensor) -> Tensor:
        """`[B, T, dim]` -> `[B, T, dim]`; positions beyond a length are not attended to."""
        mask = length_mask(lengths, seqs.size(1), seqs.device)
        attended = mask[:, None, None, :].expand(-1, 1, seqs.size(1), -1)
        for layer in self.layers:
            seqs = states_of(layer(seqs, attention_mask=attended))
        return seqs


def check_sizes(sizes: BertSizes) -> None:
    """:raises UserError: no layers can have these sizes."""
    check_at_least(sizes, dim=1, num_heads=1, ffn_dim=1)
    if sizes.dim % sizes.num_heads != 0:
        raise setting_error("num_heads", sizes.num_heads, f"a divisor of dim, {sizes.dim}")
    check_dropout(sizes.dropout)


def init_linears(module: nn.Module) -> None:
    """BERT's initialisation of every linear layer in `module`."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=INITIALIZER_STD)
            nn.init.zeros_(part.bias)
