"""Adapters: exact lengths, nothing leaks from the padding, and the scale of the LLM's embeddings from the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from speechllm_plugin.adapters.api import ADAPTERS, Adapter, AdapterShape
from speechllm_plugin.adapters.base import BaseAdapter, BaseConfig
from speechllm_plugin.masks import length_mask

SHAPE = AdapterShape(encoder_dim=24, llm_dim=20, frame_rate=50.0, output_rms=0.03)
SMALL = {
    "mlp": {"stack": 5, "hidden_dim": 32},
    "base": {"num_layers": 2, "dim": 24, "num_heads": 4, "ffn_dim": 48},
}
FACTOR = {"mlp": 5, "base": 1}
LENGTHS = torch.tensor([1, 4, 5, 6, 23, 50])


def create(name: str, **options: Any) -> Adapter:
    torch.manual_seed(0)
    return ADAPTERS.get(name).build(ADAPTERS.config(name, {**SMALL[name], **options}), SHAPE)


def features(lengths: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lengths), int(lengths.max()), SHAPE.encoder_dim, generator=generator)


@pytest.mark.parametrize("name", SMALL)
def test_lengths_are_exact_and_the_padding_is_zero(name: str) -> None:
    adapter = create(name).eval()
    output = adapter(features(LENGTHS), LENGTHS, classify=lambda frames, embed: frames)
    expected = [-(-length // FACTOR[name]) for length in LENGTHS.tolist()]
    assert output.lengths.tolist() == output.frame_lengths.tolist() == expected
    assert output.seqs.shape == (6, max(expected), SHAPE.llm_dim)
    assert output.frame_logits.shape == (6, max(expected), adapter.frame_dim)
    assert not output.seqs[~length_mask(output.lengths, max(expected))].any()
    assert create(name).output_rate(50.0) == 50.0 / FACTOR[name]


@pytest.mark.parametrize("name", SMALL)
def test_a_row_is_the_same_alone_and_in_a_batch(name: str) -> None:
    adapter, seqs = create(name).eval(), features(LENGTHS)
    output = adapter(seqs, LENGTHS, classify=lambda frames, embed: embed(frames))
    for row, length in enumerate(LENGTHS.tolist()):
        alone = adapter(
            seqs[row : row + 1, :length], LENGTHS[row : row + 1], classify=lambda frames, embed: embed(frames)
        )
        size = int(alone.lengths[0])
        torch.testing.assert_close(output.seqs[row, :size], alone.seqs[0], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(output.frame_logits[row, :size], alone.frame_logits[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_lies_beyond_a_length_is_not_read(name: str, poison: float) -> None:
    adapter, clean = create(name).eval(), features(LENGTHS)
    poisoned = clean.masked_fill(~length_mask(LENGTHS, 50).unsqueeze(-1), poison).requires_grad_()
    expected, output = adapter(clean, LENGTHS), adapter(poisoned, LENGTHS)
    assert torch.equal(output.seqs, expected.seqs)
    output.seqs.pow(2).sum().backward()
    gradients = {name: parameter.grad for name, parameter in adapter.named_parameters()}
    for parameter, gradient in gradients.items():
        assert gradient is not None and gradient.isfinite().all(), parameter
    assert poisoned.grad is not None and poisoned.grad.isfinite().all()
    assert not poisoned.grad[~length_mask(LENGTHS, 50)].any()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("length", [1, 2, 4, 5, 6, 1499, 1500])  # one frame, around a stack, Whisper's 30 s
def test_gradients_are_finite_and_reach_every_parameter(name: str, length: int) -> None:
    adapter = create(name).train()
    lengths = torch.tensor([length, 1])
    output = adapter(features(lengths), lengths)
    (output.seqs * torch.randn(output.seqs.shape)).sum().backward()
    for parameter_name, parameter in adapter.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all(), parameter_name
        # Over one frame attention has nothing to choose from; a key's bias never changes a softmax.
        if length > 1 and not parameter_name.endswith("key.bias"):
            assert gradient.any(), parameter_name


@pytest.mark.parametrize("name", SMALL)
def test_speech_starts_at_the_scale_of_the_embeddings(name: str) -> None:
    output = create(name).eval()(10 * features(LENGTHS), LENGTHS)
    rms = output.seqs[length_mask(output.lengths, output.seqs.size(1))].pow(2).mean().sqrt().item()
    assert rms == pytest.approx(SHAPE.output_rms, rel=0.01)


@pytest.mark.parametrize("name", SMALL)
def test_dropout_is_off_in_evaluation_only(name: str) -> None:
    adapter, seqs = create(name, dropout=0.5), features(LENGTHS)
    assert torch.equal(adapter.eval()(seqs, LENGTHS).seqs, adapter(seqs, LENGTHS).seqs)
    assert not torch.equal(adapter.train()(seqs, LENGTHS).seqs, adapter(seqs, LENGTHS).seqs)


def test_base_has_berts_dropout_on_hidden_states_and_attention() -> None:
    adapter = create("base", dropout=0.25)
    rates = [module.p for module in adapter.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.25] * 6, "attention weights, attention output and feed-forward output of two layers"


def test_base_has_the_papers_parameters() -> None:
    """28.351 M in its four layers (arXiv 2409.17044, table II)."""
    with torch.device("meta"):
        adapter = BaseAdapter(BaseConfig(), AdapterShape(encoder_dim=1280, llm_dim=4096, frame_rate=50.0))
    assert sum(parameter.numel() for parameter in adapter.layers.parameters()) == 28_351_488


def test_base_layers_are_transformers_bert() -> None:
    """The masked layers equal a BertEncoder's, run on each row without padding."""
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertEncoder

    adapter = create("base").eval()
    assert isinstance(adapter, BaseAdapter)
    config = BertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, attn_implementation="eager"
    )
    reference = BertEncoder(config).eval()
    reference.layer.load_state_dict(adapter.layers.layers.state_dict())
    seqs = features(LENGTHS)
    found = adapter.layers(seqs, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        expected = reference(seqs[row : row + 1, :length]).last_hidden_state[0]
        torch.testing.assert_close(found[row, :length], expected, atol=1e-5, rtol=1e-4)
