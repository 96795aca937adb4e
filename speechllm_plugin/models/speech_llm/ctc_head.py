"""The auxiliary CTC head. Label 0 is the blank; the others are tokens of the LLM's tokenizer or of a vocabulary made
for the task."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from speechllm_kernels.exporting import is_exporting
from torch import Tensor, nn

from speechllm_plugin.adapters.api import AdapterShape
from speechllm_plugin.alignment.forced import Piece, frames_needed
from speechllm_plugin.models.speech_llm.ctc_loss import ctc_loss, label_loss
from speechllm_plugin.tensors.copies import on_device, on_host
from speechllm_plugin.tensors.logits import LinearLogits, Logits
from speechllm_plugin.text.vocabulary import Vocabulary

ALIGNED_LOGIT = 12.0
"""Logit of a vector that equals its token's embedding, at the start of training."""
_NO_LABEL = -100


@dataclass(frozen=True)
class CtcLoss:
    loss: Tensor
    """Sum over the batch, in nats. Rows that cannot be aligned add 0."""
    num_labels: int
    """Labels of the rows that could be aligned."""
    infeasible: int
    """Rows that have fewer frames than their labels need, or a token outside the vocabulary."""
    clip_mean: Tensor
    """Mean over the clips with a transcript of the clip's loss per label."""


class CtcHead(nn.Module):
    @abstractmethod
    def forward(
        self, frames: Tensor, embed: Callable[[Tensor], Tensor], embed_tokens: Callable[[Tensor], Tensor]
    ) -> LinearLogits:
        """Logits of the labels, `[B, T, labels]`; see `FrameClassifier`.

        :param embed_tokens: gives the LLM's input embeddings of token ids.
        """

    def loss(
        self,
        logits: Logits,
        lengths: Tensor,
        texts: Sequence[str | None],
        tokens: Sequence[Sequence[int] | None],
    ) -> CtcLoss:
        """
        :param logits: the result of `forward`, with `lengths` `[B]` on the host.
        :param texts: the transcripts; a clip without one is left out.
        :param tokens: the transcripts as token ids of the LLM.
        """
        labels = self._known_labels(texts, tokens)
        feasible = [
            row is not None and frames_needed(row) <= length
            for row, length in zip(labels, lengths.tolist(), strict=True)
        ]
        # A row that is left out gets no labels and its loss is masked, so that no inf or NaN occurs.
        kept = [row if ok and row is not None else [] for row, ok in zip(labels, feasible, strict=True)]
        losses = ctc_loss(logits, lengths, kept)
        losses = losses.masked_fill(on_device([not ok for ok in feasible], losses.device), 0.0)
        given = sum(row is not None for row in tokens)
        per_label = losses / on_device([max(1, len(row)) for row in kept], losses.device)
        infeasible = given - feasible.count(True)
        return CtcLoss(losses.sum(), sum(map(len, kept)), infeasible, per_label.sum() / max(1, given))

    def _known_labels(
        self, texts: Sequence[str | None], tokens: Sequence[Sequence[int] | None]
    ) -> list[list[int] | None]:
        """`labels`, and None for a clip without a transcript."""
        given = [(text, row) for text, row in zip(texts, tokens, strict=True) if text is not None and row is not None]
        known = iter(self.labels([text for text, _ in given], [row for _, row in given]))
        return [None if row is None else next(known) for row in tokens]

    def token_loss(
        self,
        logits: Logits,
        lengths: Tensor,
        texts: Sequence[str | None],
        tokens: Sequence[Sequence[int] | None],
    ) -> CtcLoss:
        """Cross entropy of the i-th vector with the i-th label: CTC's loss where there are as many vectors as labels.

        :param logits: logits of the vectors, `[B, U, labels]`, with `lengths` `[B]` on the host. The other parameters
            are those of `loss`. A row with another number of vectors than labels is left out.
        """
        labels, infeasible = torch.full(logits.shape[:2], _NO_LABEL, device="cpu"), 0
        known_labels = self._known_labels(texts, tokens)
        for row, (length, known) in enumerate(zip(lengths.tolist(), known_labels, strict=True)):
            if known is not None and len(known) == length:
                labels[row, :length] = on_host(known)
            elif tokens[row] is not None:
                infeasible += 1
        scored = int((labels != _NO_LABEL).sum())
        loss = label_loss(logits, labels, ignored=_NO_LABEL)
        return CtcLoss(loss, scored, infeasible, loss / max(1, scored))

    @abstractmethod
    def labels(self, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> list[list[int] | None]:
        """Labels of each row; None where a token is outside the vocabulary."""

    def texts(self, logits: Logits, lengths: Tensor, decode_tokens: Callable[[list[int]], str]) -> list[str]:
        """Greedy CTC decoding: the likeliest label of each frame, repeated ones once, without blanks.

        :param logits: `[B, T, labels]` with `lengths` `[B]`.
        :param decode_tokens: see `text`.
        """
        best = logits.argmax(dim=-1) if isinstance(logits, Tensor) else logits.best()
        rows = [row[:length] for row, length in zip(best.tolist(), lengths.tolist(), strict=True)]
        return [self.text([label for label, _ in groupby(row) if label != 0], decode_tokens) for row in rows]

    @abstractmethod
    def text(self, labels: Sequence[int], decode_tokens: Callable[[list[int]], str]) -> str:
        """The text of labels without blanks.

        :param decode_tokens: gives the text of the LLM's tokens.
        """

    def pieces(self, text: str, tokens: Sequence[Piece]) -> list[Piece]:
        """The labels of a text with their characters, for its alignment with the frames.

        :param tokens: the text's tokens by the LLM's tokenizer.
        """
        rows = self.labels([text] * len(tokens), [[token.label] for token in tokens if token.label is not None])
        return [
            Piece(row[0] if row else None, token.start, token.end) for token, row in zip(tokens, rows, strict=True)
        ]


class LinearCtcHead(CtcHead):
    """A linear layer over the LLM tokenizer's whole vocabulary (arXiv 2409.17044)."""

    def __init__(self, frame_dim: int, vocabulary_size: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(frame_dim, vocabulary_size + 1)

    def forward(
        self, frames: Tensor, embed: Callable[[Tensor], Tensor], embed_tokens: Callable[[Tensor], Tensor]
    ) -> LinearLogits:
        with torch.autocast(frames.device.type, enabled=False):
            weight, bias = self.classifier.weight, self.classifier.bias
            return LinearLogits(frames.to(weight.dtype), weight, bias)

    def labels(self, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> list[list[int] | None]:
        return [[token + 1 for token in row] for row in tokens]

    def text(self, labels: Sequence[int], decode_tokens: Callable[[list[int]], str]) -> str:
        return decode_tokens([label - 1 for label in labels])


class SentencePieceCtcHead(LinearCtcHead):
    """A linear layer over the pieces of a sentencepiece model that was trained on the transcripts.

    With 1,000 pieces instead of the 128,256 tokens of Llama 3, the logits of 30 s at 50 Hz shrink from 770 MB to 6 MB.
    """

    def __init__(self, frame_dim: int, vocabulary: Vocabulary) -> None:
        super().__init__(frame_dim, len(vocabulary))
        self._vocabulary = vocabulary

    def labels(self, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> list[list[int] | None]:
        return [
            None if row is None else [piece + 1 for piece in row] for row in map(self._vocabulary.encode, texts)
        ]

    def text(self, labels: Sequence[int], decode_tokens: Callable[[list[int]], str]) -> str:
        return self._vocabulary.decode([label - 1 for label in labels])

    def pieces(self, text: str, tokens: Sequence[Piece]) -> list[Piece]:
        return [
            Piece(None if piece is None else piece + 1, start, end)
            for piece, start, end in self._vocabulary.pieces(text)
        ]


class LlmEmbeddingCtcHead(CtcHead):
    """The LLM's own embedding table, restricted to the tokens of the training text, on frames in the LLM's space.

    It pulls the speech to where the LLM's word embeddings lie. The restriction makes the softmax tens to hundreds of
    times cheaper; the vocabulary is set once, before training, and travels in the checkpoint.
    """

    vocabulary: Tensor
    """Which of the LLM's tokens are labels, bool `[V]`. It is a mask since fairseq2 loads only tensors of fixed
    shape."""

    def __init__(self, shape: AdapterShape, vocabulary_size: int, table_rms: float) -> None:
        """:param table_rms: root mean square of the LLM's input embeddings."""
        super().__init__()
        self.register_buffer("vocabulary", torch.zeros(vocabulary_size, dtype=torch.bool))
        self._read: tuple[object, Tensor, dict[int, int]] | None = None
        self.blank = nn.Parameter(torch.zeros(shape.llm_dim))
        # The dot product of speech with its word may be far too large or too small for a softmax.
        scale = ALIGNED_LOGIT / (shape.llm_dim * shape.output_rms * table_rms)
        # A vector of one element, since FSDP2 shards along a dimension.
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))

    def set_vocabulary(self, token_ids: Iterable[int]) -> None:
        self.vocabulary.zero_()
        self.vocabulary[sorted(set(token_ids))] = True

    def _known(self) -> tuple[Tensor, dict[int, int]]:
        """The tokens that are labels, and the label of each: its rank among them, from 1.

        The mask is read only when it has changed, as by a load: a read at every step would wait for the device.
        """
        if self._read is not None and is_exporting():
            return self._read[1:]  # of the mask, whose values cannot be asked for there
        # A tensor of inference mode has no count of changes; a model that decodes has been loaded before.
        version = None if self.vocabulary.is_inference() else self.vocabulary._version
        state = (self.vocabulary.data_ptr(), version)
        if self._read is None or self._read[0] != state:
            ids = self.vocabulary.nonzero().squeeze(1)
            self._read = (state, ids, {token: label for label, token in enumerate(ids.tolist(), start=1)})
        return self._read[1:]

    def label_tokens(self) -> Tensor:
        """The tokens that are labels, `[L]`, in their order."""
        return self._known()[0]

    def forward(
        self, frames: Tensor, embed: Callable[[Tensor], Tensor], embed_tokens: Callable[[Tensor], Tensor]
    ) -> LinearLogits:
        embedded = embed(frames)
        with torch.autocast(frames.device.type, enabled=False):
            words = embed_tokens(self.label_tokens()).detach().float()
            classes = torch.cat([self.blank.float().unsqueeze(0), words])
            return LinearLogits(embedded.float() * self.log_scale.exp(), classes)

    def labels(self, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> list[list[int] | None]:
        label_of = self._known()[1]
        rows = [[label_of.get(token, 0) for token in row] for row in tokens]
        return [row if 0 not in row else None for row in rows]

    def text(self, labels: Sequence[int], decode_tokens: Callable[[list[int]], str]) -> str:
        tokens = self.label_tokens().tolist()
        return decode_tokens([tokens[label - 1] for label in labels])
