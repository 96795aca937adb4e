"""Transformer layers with BERT-base's hyper-parameters (arXiv 1810.04805): what the published adapters are made of."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from speechllm_plugin.masks import length_mask


class BertLayers(nn.Module):
    """Bidirectional post-LayerNorm layers without position embeddings: the encoder's features carry position.

    4 layers of width 768 hold 28.351 M parameters, as in arXiv 2409.17044, table II.
    """

    def __init__(self, num_layers: int, dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        config = BertConfig(
            hidden_size=dim,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=ffn_dim,
            hidden_act="gelu",
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            layer_norm_eps=1e-12,
            attn_implementation="sdpa",
        )
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(num_layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range)
                nn.init.zeros_(module.bias)

    def forward(self, seqs: Tensor, lengths: Tensor) -> Tensor:
        """`[B, T, dim]` -> `[B, T, dim]`; positions beyond a length are not attended to."""
        mask = length_mask(lengths, seqs.size(1))
        attended = mask[:, None, None, :].expand(-1, 1, seqs.size(1), -1)
        for layer in self.layers:
            seqs = layer(seqs, attention_mask=attended)[0]
        return seqs
