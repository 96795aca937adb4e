"""The adapter `cif`, against torch_cif."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from speechllm_plugin.adapters.api import Adapter
from speechllm_plugin.tensors.masks import length_mask

LENGTHS = torch.tensor([2, 7, 23, 50])
TARGETS = torch.tensor([1, 4, 5, 12])


@pytest.fixture
def adapter(create_adapter: Callable[..., Adapter]) -> Adapter:
    """As after training: weights that differ from frame to frame, layers in which the scale of a vector matters."""
    adapter = create_adapter("cif", dropout=0.0)
    with torch.no_grad():
        for parameter in adapter.layers_after.parameters():
            parameter.mul_(10.0 if parameter.ndim == 2 else 1.0)
        adapter.weights.output.weight.mul_(4.0)
        adapter.weights.output.bias.fill_(-0.7)
    return adapter


def constant_weights(adapter: Adapter, logit: float) -> None:
    with torch.no_grad():
        adapter.weights.output.weight.zero_()
        adapter.weights.output.bias.fill_(logit)


@pytest.mark.parametrize("training", [True, False], ids=["training", "decoding"])
def test_vectors_are_those_of_torch_cif(
    adapter: Adapter, encoder_features: Callable[..., Tensor], training: bool
) -> None:
    cif_function = pytest.importorskip("torch_cif").cif_function

    adapter.train(training)
    seqs = encoder_features(LENGTHS).requires_grad_()
    targets = TARGETS if training else None
    output = adapter(seqs, LENGTHS, targets)
    frames = adapter.layers_before(adapter.project_in(seqs, LENGTHS), LENGTHS)
    weights = adapter.weights(frames, LENGTHS)
    tails = weights.masked_fill(~length_mask(LENGTHS, 50), 0.0).sum(1) % 1
    # (A row of one vector is no test of its scale: the layers' norms take it out.)
    assert weights.std() > 0.1 and tails[1:].min() < 0.5 < tails[1:].max(), "some tails become vectors, some do not"
    # Without its epsilon, which it adds to the number of tokens.
    reference = cif_function(
        frames, weights, padding_mask=~length_mask(LENGTHS, 50), target_lengths=targets, eps=0.0, unbound_alpha=True
    )
    lengths = reference["cif_lengths"][0]
    assert torch.equal(output.lengths, lengths)
    vectors = adapter.layers_after(reference["cif_out"][0], lengths)
    expected = adapter.project_out(vectors) * length_mask(lengths, vectors.size(1)).unsqueeze(-1)
    torch.testing.assert_close(output.seqs, expected, atol=1e-6, rtol=1e-3)
    if training:  # in decoding it detaches the factor of the last vector
        factors = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
        parameters = [seqs, *adapter.weights.parameters(), *adapter.layers_before.parameters()]
        found = torch.autograd.grad((output.seqs * factors).sum(), parameters)
        wanted = torch.autograd.grad((expected * factors).sum(), parameters)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_training_gives_a_vector_for_each_token(adapter: Adapter, encoder_features: Callable[..., Tensor]) -> None:
    """But at least one, and not more than there are frames."""
    assert adapter.vector_per_token
    targets = torch.tensor([0, 9, 5, 50])
    seqs = encoder_features(LENGTHS)
    assert adapter.train()(seqs, LENGTHS, targets).lengths.tolist() == [1, 7, 5, 50]
    # In decoding the answer's length, if it is known at all, changes nothing.
    decoded = adapter.eval()(seqs, LENGTHS)
    assert torch.equal(adapter(seqs, LENGTHS, targets).seqs, decoded.seqs)
    assert torch.equal(adapter.train()(seqs, LENGTHS).seqs, decoded.seqs)


@pytest.mark.parametrize("training", [True, False])
def test_the_quantity_loss_compares_the_unscaled_weights(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor], training: bool
) -> None:
    adapter = create_adapter("cif", quantity_weight=0.25).train(training)
    constant_weights(adapter, math.log(0.3 / 0.7))
    output = adapter(encoder_features(LENGTHS), LENGTHS, torch.tensor([0, 9, 5, 12]))
    expected = [abs(0.3 * length - target) for length, target in [(2, 0), (7, 9), (23, 5), (50, 12)]]
    assert output.losses.keys() == adapter.loss_weights.keys() == {"quantity"}
    assert output.losses["quantity"].tolist() == pytest.approx(expected, rel=1e-5)
    assert adapter.loss_weights["quantity"] == 0.25
    assert create_adapter("cif").loss_weights["quantity"] == 0.1
    assert not adapter(encoder_features(LENGTHS), LENGTHS).losses


def test_vectors_are_scored_in_training_with_a_token_weight(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor]
) -> None:
    seqs, targets = encoder_features(LENGTHS), torch.tensor([0, 9, 5, 12])
    adapter = create_adapter("cif", token_weight=0.3, dropout=0.0).train()
    assert adapter.loss_weights == {"quantity": 0.1, "token": 0.3}

    def classify(frames: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        return embed(frames)[..., :3]

    output = adapter(seqs, LENGTHS, targets, classify)
    assert output.token_logits is not None and output.frame_logits is not None
    torch.testing.assert_close(output.token_logits[3], output.seqs[3, :, :3])
    assert output.frame_logits.size(1) == seqs.size(1)
    assert adapter(seqs, LENGTHS, None, classify).token_logits is None
    assert adapter.eval()(seqs, LENGTHS, targets, classify).token_logits is None
    assert create_adapter("cif").train()(seqs, LENGTHS, targets, classify).token_logits is None


def test_spans_follow_the_weights(create_adapter: Callable[..., Adapter]) -> None:
    """Frames of the weight 0.3: a vector is complete in the 4th, the 7th, the 10th; from 0.5 on a tail is one too."""
    adapter = create_adapter("cif").eval()
    constant_weights(adapter, math.log(0.3 / 0.7))
    lengths = torch.tensor([1, 2, 8, 9])
    output = adapter(torch.randn(4, 9, 24), lengths)
    assert output.lengths.tolist() == [1, 1, 2, 3]
    assert output.starts.tolist() == [[0, 0, 0], [0, 0, 0], [0, 3, 0], [0, 3, 6]]
    assert output.ends.tolist() == [[1, 0, 0], [2, 0, 0], [4, 7, 0], [4, 7, 9]]


@pytest.mark.parametrize("logit", [-5.0, -50.0, -500.0])  # a little weight, less, none in float32
def test_a_clip_of_little_weight_gives_the_mean_of_its_frames(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor], logit: float
) -> None:
    adapter, seqs = create_adapter("cif").eval(), encoder_features(LENGTHS)
    constant_weights(adapter, logit)
    with torch.no_grad():
        adapter.weights.output.weight.normal_(std=0.3)
    output = adapter(seqs, LENGTHS)
    output.seqs.square().sum().backward()
    frames = adapter.layers_before(adapter.project_in(seqs, LENGTHS), LENGTHS)
    weights = adapter.weights(frames, LENGTHS)
    assert output.lengths.tolist() == [1, 1, 1, 1]
    for row, length in enumerate(LENGTHS.tolist()):
        share = weights[row, :length].double()
        assert share.sum() < 0.5
        mean = ((share / share.sum()).unsqueeze(1) * frames[row, :length]).sum(0).float()
        expected = adapter.project_out(adapter.layers_after(mean.view(1, 1, -1), torch.tensor([1])))[0]
        torch.testing.assert_close(output.seqs[row, :1], expected, atol=1e-6, rtol=1e-4)
        assert output.ends[row].tolist() == [length]
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_clip_of_little_weight_changes_no_other(adapter: Adapter, encoder_features: Callable[..., Tensor]) -> None:
    """A batch in which one clip's weights are scaled to a vector, and another's are not."""
    adapter.eval()
    constant_weights(adapter, math.log(0.12 / 0.88))
    seqs = encoder_features(LENGTHS)
    output = adapter(seqs, LENGTHS)
    assert output.lengths.tolist() == [1, 1, 3, 6]
    for row in (2, 3):
        length = int(LENGTHS[row])
        alone = adapter(seqs[row : row + 1, :length], LENGTHS[row : row + 1])
        torch.testing.assert_close(output.seqs[row, : int(alone.lengths)], alone.seqs[0], atol=1e-6, rtol=1e-4)


def test_weights_are_float32_under_half_precision(
    adapter: Adapter, encoder_features: Callable[..., Tensor]
) -> None:
    predictor, frames = adapter.weights, encoder_features(LENGTHS)
    scored = []
    hook = predictor.norm.register_forward_hook(lambda *arguments: scored.append(arguments[-1]))
    with torch.autocast("cpu", torch.bfloat16):
        weights = predictor(frames, LENGTHS)
    hook.remove()
    assert weights.dtype == torch.float32
    # Of the same numbers in float32: scores rounded to bfloat16 sum to other counts than in decoding.
    torch.testing.assert_close(weights, predictor.output(scored[0].float().relu()).squeeze(-1).sigmoid())
