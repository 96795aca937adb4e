"""The adapter `ctc`, against a loop over runs of labels."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import pytest
import torch
from torch import Tensor, nn

import speechllm_plugin.tensors.logits
from speechllm_plugin.adapters.api import Adapter
from speechllm_plugin.errors import UserError
from speechllm_plugin.tensors.logits import LinearLogits

LENGTHS = torch.tensor([1, 4, 23, 50])


@pytest.fixture
def classifier() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(24, 3)  # few labels make long runs


def classify_with(classifier: nn.Linear) -> Callable[..., Tensor]:
    return lambda frames, embed: classifier(frames)


@pytest.mark.parametrize("weighting", ["mean", "prob", "softmax"])
def test_vectors_and_gradients_equal_a_loop(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor], classifier: nn.Linear,
    weighting: str,
) -> None:
    adapter, seqs = create_adapter("ctc", weighting=weighting).eval(), encoder_features(LENGTHS)
    output = adapter(seqs, LENGTHS, classify=classify_with(classifier))
    weights = torch.randn(output.seqs.shape, generator=torch.Generator().manual_seed(2))
    expected_loss = torch.zeros(())
    merged = 0
    for row, length in enumerate(LENGTHS.tolist()):
        frames = adapter.layers_before(
            adapter.project_in(seqs[row : row + 1, :length], LENGTHS[row : row + 1]), LENGTHS[row : row + 1]
        )
        logits = classifier(frames)[0]
        torch.testing.assert_close(output.frame_logits[row, :length], logits)
        vectors, spans, first = [], [], 0
        for label, group in groupby(logits.argmax(-1).tolist()):
            last = first + len(list(group))
            probability = logits[first:last].softmax(-1)[:, label]
            share = {
                "mean": torch.ones(last - first),
                "prob": probability,
                "softmax": probability.exp(),
            }[weighting]
            vectors.append((frames[0, first:last] * (share / share.sum()).unsqueeze(1)).sum(0))
            spans.append((first, last))
            first = last
        merged += length - len(spans)
        final = adapter.layers_after(torch.stack(vectors).unsqueeze(0), torch.tensor([len(spans)]))
        expected = adapter.project_out(final)[0]
        assert output.lengths[row] == len(spans)
        assert list(zip(output.starts[row].tolist(), output.ends[row].tolist(), strict=True))[: len(spans)] == spans
        torch.testing.assert_close(output.seqs[row, : len(spans)], expected, atol=1e-6, rtol=1e-4)
        expected_loss = expected_loss + (expected * weights[row, : len(spans)]).sum()
    assert merged > 5, "there were runs to merge"
    parameters = [*adapter.parameters(), *classifier.parameters()]
    found_gradients = torch.autograd.grad((output.seqs * weights).sum(), parameters, allow_unused=True)
    expected_gradients = torch.autograd.grad(expected_loss, parameters, allow_unused=True)
    for found, wanted in zip(found_gradients, expected_gradients, strict=True):
        # With equal weights the loop's gradient does not pass the classifier at all.
        assert (found is None) == (wanted is None)
        if found is not None:
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("weighting", ["mean", "prob"])
@pytest.mark.parametrize("detach", [False, True])
def test_what_the_llms_loss_reaches(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor], classifier: nn.Linear,
    weighting: str, detach: bool,
) -> None:
    adapter = create_adapter("ctc", weighting=weighting, detach=detach).train()
    output = adapter(encoder_features(LENGTHS), LENGTHS, classify=classify_with(classifier))
    (output.seqs * torch.randn(output.seqs.shape)).sum().backward(retain_graph=True)
    early = [*adapter.input.parameters(), *adapter.input_norm.parameters(), *adapter.layers_before.parameters()]
    late = [*adapter.layers_after.parameters(), *adapter.output.parameters(), *adapter.norm.parameters()]
    assert all(parameter.grad is not None for parameter in late)
    assert all((parameter.grad is None) == detach for parameter in early)
    assert (classifier.weight.grad is None) == (detach or weighting == "mean")
    # CTC's loss reaches them all the same.
    output.frame_logits.sum().backward()
    assert all(parameter.grad is not None for parameter in [*early, classifier.weight])


def test_detaching_changes_no_result(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor], classifier: nn.Linear
) -> None:
    outputs = [
        create_adapter("ctc", detach=detach).eval()(
            encoder_features(LENGTHS), LENGTHS, classify=classify_with(classifier)
        )
        for detach in (False, True)
    ]
    assert torch.equal(outputs[0].seqs, outputs[1].seqs)


def test_it_needs_the_classifier(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor]
) -> None:
    adapter = create_adapter("ctc")
    assert adapter.needs_classifier
    with pytest.raises(UserError, match=r"^ctc\.weight: found 0, expected a number above 0: the adapter 'ctc' .*$"):
        adapter(encoder_features(LENGTHS), LENGTHS)


def test_many_labels_are_found_in_pieces(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor], classifier: nn.Linear,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter, seqs = create_adapter("ctc").eval(), encoder_features(LENGTHS)

    def classify(frames: Tensor, embed: Callable[[Tensor], Tensor]) -> LinearLogits:
        return LinearLogits(frames, classifier.weight, classifier.bias)

    expected = adapter(seqs, LENGTHS, classify=classify)
    monkeypatch.setattr(speechllm_plugin.tensors.logits, "LOGITS_AT_A_TIME", 2 * classifier.out_features)
    found = adapter(seqs, LENGTHS, classify=classify)
    assert found.frame_logits.are_many and "whole" not in vars(found.frame_logits)
    assert torch.equal(found.seqs, expected.seqs) and torch.equal(found.starts, expected.starts)
