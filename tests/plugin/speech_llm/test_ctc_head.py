"""The auxiliary CTC head against torch's loss, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import speechllm_plugin.tensors.logits
from speechllm_plugin.adapters.api import AdapterShape
from speechllm_plugin.models.speech_llm.ctc_head import (
    ALIGNED_LOGIT,
    CtcHead,
    CtcLoss,
    LinearCtcHead,
    LlmEmbeddingCtcHead,
    SentencePieceCtcHead,
)
from speechllm_plugin.tensors.logits import columns, first_frames
from speechllm_plugin.text.vocabulary import Vocabulary, train_vocabulary

WORDS = 30
KNOWN = [3, 5, 7, 11, 13, 17]
SHAPE = AdapterShape(encoder_dim=10, llm_dim=12, frame_rate=50.0, output_rms=0.2)
TABLE_RMS = 0.05
LENGTHS = torch.tensor([9, 4, 6, 1])
TARGETS = [[3, 5, 5, 7], [11, 13, 17], [7], []]


def create(kind: str) -> CtcHead:
    torch.manual_seed(0)
    if kind == "linear":
        return LinearCtcHead(SHAPE.llm_dim, WORDS)
    head = LlmEmbeddingCtcHead(SHAPE, WORDS, TABLE_RMS)
    head.set_vocabulary(KNOWN)
    torch.nn.init.normal_(head.blank, std=0.05)
    return head


def table() -> Tensor:
    return TABLE_RMS * torch.randn(WORDS, SHAPE.llm_dim, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Speech:
    """Frames that differ from their place in the LLM's space: `linear` reads the one, `llm_embedding` the other."""

    frames: Tensor
    embedded: Tensor
    lengths: Tensor

    def read_by(self, kind: str) -> Tensor:
        return self.frames if kind == "linear" else self.embedded


def speech(lengths: Tensor = LENGTHS) -> Speech:
    generator = torch.Generator().manual_seed(2)
    size = (len(lengths), int(lengths.max()), SHAPE.llm_dim)
    embedded = (SHAPE.output_rms * torch.randn(size, generator=generator)).requires_grad_()
    return Speech(torch.randn(size, generator=generator).requires_grad_(), embedded, lengths)


def loss_of(head: CtcHead, output: Speech, targets: list[list[int]]) -> CtcLoss:
    logits = head(output.frames, lambda _: output.embedded, lambda ids: table()[ids])
    return head.loss(logits, output.lengths, [""] * len(targets), targets)


def expected_loss(kind: str, head: CtcHead, output: Speech, row: int, target: list[int]) -> Tensor:
    length = int(output.lengths[row])
    if isinstance(head, LinearCtcHead):
        logits = F.linear(output.frames[row, :length], head.classifier.weight, head.classifier.bias)
        labels = [token + 1 for token in target]
    else:
        assert isinstance(head, LlmEmbeddingCtcHead)
        classes = torch.stack([head.blank, *[table()[token] for token in sorted(KNOWN)]])
        logits = output.embedded[row, :length] @ classes.T * head.log_scale.exp()
        labels = [sorted(KNOWN).index(token) + 1 for token in target]
    return F.ctc_loss(
        logits.log_softmax(-1).unsqueeze(1), torch.tensor([labels], dtype=torch.long), (length,), (len(labels),),
        reduction="sum",
    )


@pytest.mark.parametrize("kind", ["linear", "llm_embedding"])
def test_the_loss_is_the_sum_over_rows(kind: str) -> None:
    head, output = create(kind), speech()
    result = loss_of(head, output, TARGETS)
    expected = torch.stack([expected_loss(kind, head, output, row, target) for row, target in enumerate(TARGETS)])
    assert result.infeasible == 0
    torch.testing.assert_close(result.loss, expected.sum())

    read = output.read_by(kind)
    wanted = [read, *head.parameters()]
    found_gradients = torch.autograd.grad(result.loss, wanted, retain_graph=True)
    expected_gradients = torch.autograd.grad(expected.sum(), wanted)
    for found, wanted_gradient in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted_gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "llm_embedding"])
@pytest.mark.parametrize(
    ("row", "target"),
    [
        pytest.param(1, [3, 5, 7, 11, 13], id="more labels than frames"),
        pytest.param(1, [3, 3, 5, 5], id="no frame for the blanks between equal labels"),
        pytest.param(3, [3, 3], id="one frame"),
    ],
)
def test_a_row_that_cannot_be_aligned_is_counted_and_adds_nothing(kind: str, row: int, target: list[int]) -> None:
    head, output = create(kind), speech()
    targets = [target if i == row else other for i, other in enumerate(TARGETS)]
    result = loss_of(head, output, targets)
    others = [expected_loss(kind, head, output, i, other) for i, other in enumerate(TARGETS) if i != row]
    assert result.infeasible == 1
    assert result.num_labels == sum(len(other) for i, other in enumerate(TARGETS) if i != row)
    torch.testing.assert_close(result.loss, torch.stack(others).sum())
    read = output.read_by(kind)
    for gradient in torch.autograd.grad(result.loss, [read, *head.parameters()]):
        assert gradient.isfinite().all()
    (gradient,) = torch.autograd.grad(loss_of(head, output, targets).loss, [read])
    assert not gradient[row].any()


@pytest.mark.parametrize("kind", ["linear", "llm_embedding"])
def test_just_enough_frames(kind: str) -> None:
    head, output = create(kind), speech()
    # Four frames: a, blank, a, b.
    targets = [[], [3, 3, 5], [], []]
    result = loss_of(head, output, targets)
    assert result.infeasible == 0
    torch.testing.assert_close(
        result.loss, torch.stack([expected_loss(kind, head, output, row, t) for row, t in enumerate(targets)]).sum()
    )


@pytest.mark.parametrize("kind", ["linear", "llm_embedding"])
def test_a_batch_without_any_row_to_align(kind: str) -> None:
    head, output = create(kind), speech(torch.tensor([1, 1]))
    result = loss_of(head, output, [[3, 5], [7, 7]])
    assert (result.infeasible, result.num_labels) == (2, 0)
    assert result.loss.item() == 0.0
    read = output.read_by(kind)
    for gradient in torch.autograd.grad(result.loss, [read, *head.parameters()]):
        assert gradient.isfinite().all()


def test_a_token_outside_the_vocabulary_is_counted() -> None:
    head, output = create("llm_embedding"), speech()
    targets = [[3, 4], *TARGETS[1:]]  # 4 is no label
    result = loss_of(head, output, targets)
    assert result.infeasible == 1
    expected = [expected_loss("llm_embedding", head, output, row, TARGETS[row]) for row in (1, 2, 3)]
    torch.testing.assert_close(result.loss, torch.stack(expected).sum())


def test_what_lies_beyond_a_length_is_not_read() -> None:
    for kind in ("linear", "llm_embedding"):
        head, output = create(kind), speech()
        before = loss_of(head, output, TARGETS).loss
        with torch.no_grad():
            output.frames[1, 4:] = 100.0
            output.embedded[1, 4:] = 100.0
        torch.testing.assert_close(loss_of(head, output, TARGETS).loss, before)


@pytest.mark.parametrize("kind", ["linear", "llm_embedding"])
def test_the_token_loss_is_the_cross_entropy_of_each_vector(kind: str) -> None:
    """Where a row has as many vectors as known labels; it is then CTC's, whose only path gives each frame its label."""
    head, output = create(kind), speech(torch.tensor([3, 4, 2, 3]))
    targets = [[3, 5, 7], [11, 13, 17], [5, 7], [3, 4, 5]]  # too many vectors; a token outside of `KNOWN`
    logits = head(output.frames, lambda _: output.embedded, lambda ids: table()[ids])
    rows = [0, 2] if kind == "llm_embedding" else [0, 2, 3]
    expected = sum(expected_loss(kind, head, output, row, targets[row]) for row in rows)
    loss = head.token_loss(logits, output.lengths, [""] * 4, targets)
    torch.testing.assert_close(loss.loss, expected)
    assert (loss.num_labels, loss.infeasible) == (sum(len(targets[row]) for row in rows), 4 - len(rows))
    loss.loss.backward()
    gradient = (output.frames if kind == "linear" else output.embedded).grad
    assert gradient is not None and gradient[0].any() and not gradient[1].any() and not gradient[2, 2:].any()


def test_an_embedding_starts_as_its_own_token() -> None:
    """A speech embedding in a token's direction scores about `ALIGNED_LOGIT` for it, and highest of all."""
    head = LlmEmbeddingCtcHead(SHAPE, WORDS, TABLE_RMS)
    head.set_vocabulary(KNOWN)
    words = table()
    words = words * TABLE_RMS / words.pow(2).mean(-1, keepdim=True).sqrt()
    speech = words[sorted(KNOWN)].unsqueeze(0) * SHAPE.output_rms / TABLE_RMS
    logits = head(speech, lambda frames: frames, lambda ids: words[ids]).whole
    assert logits[0].argmax(-1).tolist() == list(range(1, len(KNOWN) + 1))
    torch.testing.assert_close(logits[0].diagonal(offset=1), torch.full((len(KNOWN),), ALIGNED_LOGIT))


def test_the_vocabulary_travels_in_the_checkpoint() -> None:
    head, output = create("llm_embedding"), speech()
    other = LlmEmbeddingCtcHead(SHAPE, WORDS, TABLE_RMS)
    other.set_vocabulary([1, 2])
    assert other.labels([""], [[1, 2]]) == [[1, 2]]
    other.load_state_dict(head.state_dict())
    assert other.labels([""] * 3, [[17], [3, 5], [4]]) == [[6], [1, 2], None]
    assert torch.equal(loss_of(other, output, TARGETS).loss, loss_of(head, output, TARGETS).loss)


@torch.no_grad()
def test_labels_follow_the_mask_however_it_is_loaded() -> None:
    head = LlmEmbeddingCtcHead(SHAPE, WORDS, TABLE_RMS)
    head.set_vocabulary([5, 9])
    assert head.labels([""], [[9]]) == [[2]]
    head.vocabulary.copy_(torch.arange(WORDS) > WORDS - 3)
    assert head.labels([""] * 2, [[9], [WORDS - 2, WORDS - 1]]) == [None, [1, 2]]
    with torch.inference_mode():
        moved = head.to(torch.float64)
        moved.vocabulary = head.vocabulary.clone()
        assert moved.labels([""], [[WORDS - 1]]) == [[2]]


def test_autocast_does_not_round_the_loss() -> None:
    for kind in ("linear", "llm_embedding"):
        head, output = create(kind), speech()
        plain = loss_of(head, output, TARGETS).loss
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(loss_of(head, output, TARGETS).loss, plain)


@pytest.mark.parametrize("kind", ["linear", "llm_embedding"])
@pytest.mark.parametrize("at_a_time", [1, 31 * 2], ids=["a frame at a time", "two frames at a time"])
def test_in_pieces_all_is_as_with_whole_logits(kind: str, at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated labels, no label, no transcript, and a row that cannot be aligned."""
    head, output = create(kind), speech(torch.tensor([9, 4, 6, 1, 5]))
    targets: list[list[int] | None] = [[3, 5, 5, 7, 3], [11, 11, 13, 17], [7], [], None]
    texts = ["", "", "", "", None]

    def results() -> list[Tensor]:
        logits = head(output.frames, lambda _: output.embedded, lambda ids: table()[ids])
        loss = head.loss(logits, output.lengths, texts, targets)
        labels = [[3], [5], [7], [], None]
        tokens = head.token_loss(logits, torch.tensor([1, 1, 1, 0, 5]), texts, labels)
        gradients = torch.autograd.grad(loss.loss + tokens.loss, [output.read_by(kind), *head.parameters()])
        assert (loss.infeasible, loss.num_labels, tokens.num_labels) == (1, 6, 3)
        return [loss.loss, loss.clip_mean, tokens.loss, *gradients]

    expected = results()
    monkeypatch.setattr(speechllm_plugin.tensors.logits, "LOGITS_AT_A_TIME", at_a_time)
    for found, wanted in zip(results(), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    logits = head(output.frames, lambda _: output.embedded, lambda ids: table()[ids])
    assert logits.are_many and torch.equal(logits.best(), logits.whole.argmax(-1))
    labels = torch.tensor([0, 2, 2])
    torch.testing.assert_close(columns(first_frames(logits, 1, 4), labels), logits.whole[1, :4, labels])


@pytest.mark.parametrize("kind", ["linear", "llm_embedding"])
def test_a_head_hears_its_likeliest_labels(kind: str) -> None:
    """Repeated frames are one token; a blank between equal ones keeps both; what lies beyond the length is not read."""
    head = create(kind)
    rows = [[3, 3, None, 5, None, 5, 7, 7, 17], [None, None, 11, 13, 3, 3, 3, 3, 3]]
    label_of = {token: head.labels([""], [[token]])[0] for token in KNOWN}
    labels = [[0 if token is None else label_of[token][0] for token in row] for row in rows]  # type: ignore[index]
    logits = F.one_hot(torch.tensor(labels), 1 + WORDS).float()
    found = head.texts(logits, torch.tensor([9, 4]), lambda tokens: " ".join(map(str, tokens)))
    assert found == ["3 5 5 7 17", "11 13"]


def test_a_sentencepiece_head_hears_words(tmp_path: Path) -> None:
    path = tmp_path / "pieces.model"
    train_vocabulary(["turn on the light", "turn off the light", "play the music"] * 5, path, size=20)
    head = SentencePieceCtcHead(SHAPE.llm_dim, Vocabulary(str(path), "ctc.vocabulary"))
    (labels,) = head.labels(["turn off the music"], [[]])
    assert labels is not None
    frames = [label for one in labels for label in (one, one, 0)]
    logits = F.one_hot(torch.tensor([frames]), 1 + max(labels)).float()
    assert head.texts(logits, torch.tensor([len(frames)]), lambda tokens: "") == ["turn off the music"]


def test_the_pieces_of_a_sentencepiece_head_are_its_labels(tmp_path: Path) -> None:
    train_vocabulary(["turn the light on", "call the station"] * 4, tmp_path / "pieces.model", size=18)
    vocabulary = Vocabulary(str(tmp_path / "pieces.model"), "ctc.vocabulary")
    head = SentencePieceCtcHead(8, vocabulary)
    text = "turn  %%% the"
    pieces = head.pieces(text, [])
    assert head.labels(["turn the"], []) == [[piece.label for piece in head.pieces("turn the", [])]]
    assert [(piece.start, piece.end) for piece in pieces if piece.label is None] == [(6, 9)]
    # Each character has one piece; no piece begins with the space before its word.
    spelled = [place for piece in pieces for place in range(piece.start, piece.end)]
    assert spelled == [place for place, character in enumerate(text) if character != " "]
