"""The adapter `base`: BERT's layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from speechllm_plugin.adapters.api import Adapter

LENGTHS = torch.tensor([1, 4, 23, 50])


def test_dropout_is_berts_on_hidden_states_and_attention(create_adapter: Callable[..., Adapter]) -> None:
    adapter = create_adapter("base", dropout=0.25)
    rates = [module.p for module in adapter.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.25] * 6, "attention weights, attention output and feed-forward output of two layers"


def test_layers_are_transformers_bert(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor]
) -> None:
    """The masked layers equal a BertEncoder's, run on each row without padding."""
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertEncoder

    layers = create_adapter("base").eval().layers
    config = BertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, attn_implementation="eager"
    )
    reference = BertEncoder(config).eval()
    reference.layer.load_state_dict(layers.layers.state_dict())
    seqs = encoder_features(LENGTHS)
    found = layers(seqs, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        expected = reference(seqs[row : row + 1, :length]).last_hidden_state[0]
        torch.testing.assert_close(found[row, :length], expected, atol=1e-5, rtol=1e-4)
