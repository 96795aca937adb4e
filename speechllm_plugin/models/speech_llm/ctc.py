"""The auxiliary CTC head: blank is label 0, every other label a token of the LLM's tokenizer."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechllm_plugin.adapters.api import AdapterOutput, AdapterShape

ALIGNED_LOGIT = 12.0
"""Logit at the start of training of a vector that equals its token's embedding."""


@dataclass(frozen=True)
class CtcLoss:
    loss: Tensor
    """Sum over the batch, in nats. Rows that cannot be aligned add 0."""
    infeasible: int
    """Rows that have fewer frames than their labels need, or a token outside the vocabulary."""


class CtcHead(nn.Module):
    def forward(self, output: AdapterOutput, targets: Sequence[Sequence[int]], table: Tensor) -> CtcLoss:
        """
        :param targets: token ids of each row's text, without the end of the turn.
        :param table: the LLM's input embeddings, `[V, C]`.
        """
        with torch.autocast(output.seqs.device.type, enabled=False):
            logits, lengths = self.logits(output, table)
            log_probs = logits.float().log_softmax(dim=-1).transpose(0, 1)  # (B, T, V) -> (T, B, V)
        labels = [self.labels(target) for target in targets]
        feasible = [
            row is not None and _frames_needed(row) <= length
            for row, length in zip(labels, lengths.tolist(), strict=True)
        ]
        # A row left out gets no label at all and its loss is masked, so that neither inf nor NaN exists anywhere.
        kept = [row if ok and row is not None else [] for row, ok in zip(labels, feasible, strict=True)]
        losses = F.ctc_loss(
            log_probs,
            torch.tensor([label for row in kept for label in row], dtype=torch.long, device=log_probs.device),
            lengths,
            torch.tensor([len(row) for row in kept], device=log_probs.device),
            reduction="none",
            zero_infinity=True,
        )
        mask = torch.tensor(feasible, device=losses.device)
        return CtcLoss(losses.masked_fill(~mask, 0.0).sum(), feasible.count(False))

    @abstractmethod
    def logits(self, output: AdapterOutput, table: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the labels, `[B, T, labels]`, and the lengths, `[B]`."""

    @abstractmethod
    def labels(self, tokens: Sequence[int]) -> list[int] | None:
        """Token ids to labels; None if one is outside the vocabulary."""


class LinearCtcHead(CtcHead):
    """A linear layer on the frames before compression, over the tokenizer's whole vocabulary (arXiv 2409.17044)."""

    def __init__(self, frame_dim: int, vocabulary_size: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(frame_dim, vocabulary_size + 1)

    def logits(self, output: AdapterOutput, table: Tensor) -> tuple[Tensor, Tensor]:
        frames = output.frames.to(self.classifier.weight.dtype)
        return self.classifier(frames), output.frame_lengths

    def labels(self, tokens: Sequence[int]) -> list[int]:
        return [token + 1 for token in tokens]


class LlmEmbeddingCtcHead(CtcHead):
    """The LLM's own embedding table on the adapter's output, restricted to the tokens of the training text.

    It pulls the speech to where the LLM's word embeddings lie. The restriction makes the softmax tens to hundreds of
    times cheaper; the vocabulary is set once, before training, and travels in the checkpoint.
    """

    token_ids: Tensor

    def __init__(self, shape: AdapterShape) -> None:
        super().__init__()
        self.register_buffer("token_ids", torch.zeros(0, dtype=torch.long))
        self.blank = nn.Parameter(torch.zeros(shape.llm_dim))
        # The dot product of two vectors at the table's scale can be far above or below what a softmax needs.
        scale = ALIGNED_LOGIT / (shape.llm_dim * shape.output_rms**2)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def set_vocabulary(self, token_ids: Sequence[int]) -> None:
        self.token_ids = torch.tensor(sorted(set(token_ids)), dtype=torch.long, device=self.blank.device)

    def logits(self, output: AdapterOutput, table: Tensor) -> tuple[Tensor, Tensor]:
        words = table[self.token_ids].detach().float()
        classes = torch.cat([self.blank.float().unsqueeze(0), words])
        return F.linear(output.seqs.float(), classes) * self.log_scale.exp(), output.lengths

    def labels(self, tokens: Sequence[int]) -> list[int] | None:
        label_of = {token: label for label, token in enumerate(self.token_ids.tolist(), start=1)}
        if any(token not in label_of for token in tokens):
            return None
        return [label_of[token] for token in tokens]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The vocabulary's size is known only to the checkpoint.
        saved = state_dict.get(f"{prefix}token_ids")
        if saved is not None and saved.shape != self.token_ids.shape:
            self.token_ids = torch.zeros_like(saved, device=self.token_ids.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _frames_needed(labels: Sequence[int]) -> int:
    """CTC needs a frame per label and a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in zip(labels, labels[1:], strict=False))
