"""The contract of an adapter."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from speechllm_plugin.registry import ADAPTERS as ADAPTERS
from speechllm_plugin.tensors.logits import Logits, first_rows, stack_logits


@dataclass(frozen=True)
class AdapterShape:
    """What an adapter must fit."""

    encoder_dim: int
    """Width of the encoder's features, `frame_stack` of them joined."""
    llm_dim: int
    """Width of the LLM's input embeddings."""
    frame_rate: float
    """Feature vectors of that width per second of audio (Hz)."""
    output_rms: float = 1.0
    """Root mean square of an adapter's output at the start of training: that of the LLM's input embeddings."""


class FrameClassifier(Protocol):
    """Scores frames for CTC; label 0 is the blank."""

    def __call__(self, frames: Tensor, embed: Callable[[Tensor], Tensor]) -> Logits:
        """
        :param frames: `[B, T, frame_dim]`.
        :param embed: takes frames to the LLM's embedding space, `[B, T, llm_dim]`: for a classifier that compares
            them with the LLM's own embedding table.
        :returns: logits, `[B, T, labels]`, as the rule to compute them: they may be too many to exist.
        """


@dataclass(frozen=True)
class AdapterOutput:
    seqs: Tensor
    """Speech embeddings, `[B, U, llm_dim]`, zeros beyond each length."""
    lengths: Tensor
    """`[B]`, int64, on the host; at least 1 for every clip."""
    frame_logits: Logits | None = None
    """The classifier's scores of the frames before any learnt compression, `[B, T, labels]`; None without a
    classifier."""
    frame_lengths: Tensor | None = None
    """Lengths of `frame_logits`, `[B]`, int64, on the host."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """The adapter's own unweighted losses, one for each clip, `[B]`; present where `target_lengths` were given. The
    keys are among those of `Adapter.loss_weights`."""
    token_logits: Logits | None = None
    """The classifier's scores of the output vectors, `[B, U, labels]`, where the i-th vector is trained on the i-th
    token of the transcript. The model computes the loss `token` from them, weighted by `Adapter.loss_weights`."""
    starts: Tensor | None = None
    """`[B, U]`, int64: the first encoder frame that each vector stands for; None where the adapter cannot tell."""
    ends: Tensor | None = None
    """`[B, U]`, int64: one past the last encoder frame of each vector."""
    earlier: Sequence[Sequence[Tensor]] = ()
    """For each clip, the embeddings `[U, llm_dim]` of the speech in earlier turns; empty where no clip has any. The
    model sets it."""


def stack_outputs(rows: Sequence[AdapterOutput]) -> AdapterOutput:
    """Joins the outputs of single clips, as decoding makes them, into the output of a batch."""

    def padded(name: str) -> Tensor | None:
        values = [getattr(row, name) for row in rows]
        return None if values[0] is None else nn.utils.rnn.pad_sequence([value[0] for value in values], True)

    def stacked(name: str) -> Logits | None:
        values = [getattr(row, name) for row in rows]
        return None if values[0] is None else stack_logits(values)

    seqs = padded("seqs")
    assert seqs is not None
    return AdapterOutput(
        seqs,
        torch.cat([row.lengths for row in rows]),
        frame_logits=stacked("frame_logits"),
        frame_lengths=None if rows[0].frame_lengths is None else torch.cat(
            [row.frame_lengths for row in rows if row.frame_lengths is not None]
        ),
        token_logits=stacked("token_logits"),
        starts=padded("starts"),
        ends=padded("ends"),
        earlier=[row.earlier[0] if row.earlier else () for row in rows],
    )


def split_earlier(output: AdapterOutput, counts: Sequence[int]) -> AdapterOutput:
    """
    :param output: the output of the clips, followed by that of the speech in earlier turns, clip by clip.
    :param counts: how many such turns each clip has.
    """
    if not any(counts):
        return output
    clips, lengths = len(counts), output.lengths.tolist()
    rows = iter([output.seqs[row, : lengths[row]] for row in range(clips, len(lengths))])
    tensors = ("seqs", "lengths", "frame_lengths", "starts", "ends")
    changes: dict[str, Any] = {
        name: value[:clips] for name in tensors if (value := getattr(output, name)) is not None
    } | {
        name: first_rows(value, clips) for name in ("frame_logits", "token_logits")
        if (value := getattr(output, name)) is not None
    }  # fmt: skip
    losses = {name: loss[:clips] for name, loss in output.losses.items()}
    return replace(output, **changes, losses=losses, earlier=[list(islice(rows, count)) for count in counts])


class Adapter(nn.Module):
    """Padding never changes a result: what lies beyond a length is not read."""

    frame_dim: int | None = None
    """Width of the frames that a `FrameClassifier` scores. None = the adapter has no such frames: CTC cannot train
    it."""
    needs_classifier: bool = False
    """Whether the classifier is part of the adapter: it then runs in decoding too."""
    frame_stride: int = 1
    """Encoder frames in each frame that the classifier scores."""
    vector_per_token: bool = False
    """Whether the i-th output vector stands for the i-th token of the transcript, as CIF trains it to."""
    loss_weights: Mapping[str, float] = MappingProxyType({})
    """Weights of the adapter's own losses beside the LLM's."""
    ctc_weight: float = 0.0
    """Default weight of the auxiliary CTC loss."""
    loss_names: Mapping[str, str] = MappingProxyType({})
    """Names of the adapter's own losses in logs, by the keys of `loss_weights`."""

    @abstractmethod
    def forward(
        self,
        seqs: Tensor,
        lengths: Tensor,
        target_lengths: Tensor | None = None,
        classify: FrameClassifier | None = None,
    ) -> AdapterOutput:
        """
        :param seqs: encoder features, `[B, T, encoder_dim]`.
        :param lengths: `[B]`, int64, at least 1, on the host, as all that is computed from them.
        :param target_lengths: `[B]`, on the host, tokens of each transcript, in training only; -1 for a clip without
            a transcript, which does not count in the losses that need one.
        :param classify: the auxiliary CTC head, in training and where `needs_classifier`.
        """

    def output_rate(self, frame_rate: float) -> float | None:
        """Speech embeddings per second (Hz) for an encoder's frame rate; None where the rate depends on the content, or
        the adapter does not tell it."""
        return None

    def layer_lists(self) -> list[nn.ModuleList]:
        """The layers that activation checkpointing and `torch.compile` take one by one."""
        return [module for module in self.modules() if isinstance(module, nn.ModuleList)]


def output_norm(shape: AdapterShape) -> nn.LayerNorm:
    """The LayerNorm that ends every adapter."""
    norm = nn.LayerNorm(shape.llm_dim)
    nn.init.constant_(norm.weight, shape.output_rms)
    return norm
