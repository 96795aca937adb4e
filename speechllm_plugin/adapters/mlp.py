"""`mlp`: frame stacking and two linear layers, the field's usual baseline (as in SLAM-LLM, arXiv 2402.08846)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from speechllm_plugin.adapters.api import (
    ADAPTERS,
    Adapter,
    AdapterOutput,
    AdapterShape,
    FrameClassifier,
    output_norm,
)
from speechllm_plugin.adapters.option_checks import check_at_least, check_dropout
from speechllm_plugin.tensors.masks import length_mask, stack_frames


@dataclass(kw_only=True)
class MlpConfig:
    stack: int = 5
    """Encoder frames joined into one vector; 5 turns Whisper's 50 Hz into 10 Hz."""
    hidden_dim: int = 2048
    """Width between the two linear layers."""
    dropout: float = 0.0
    """Dropout after the first layer."""


class MlpAdapter(Adapter):
    def __init__(self, config: MlpConfig, shape: AdapterShape) -> None:
        super().__init__()
        check_at_least(config, stack=1, hidden_dim=1)
        check_dropout(config.dropout)
        self.stack = self.frame_stride = config.stack
        self.frame_dim = shape.llm_dim
        self.input = nn.Linear(config.stack * shape.encoder_dim, config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.hidden_dim, shape.llm_dim)
        self.norm = output_norm(shape)

    def forward(
        self,
        seqs: Tensor,
        lengths: Tensor,
        target_lengths: Tensor | None = None,
        classify: FrameClassifier | None = None,
    ) -> AdapterOutput:
        seqs, lengths = stack_frames(seqs, lengths, self.stack)
        seqs = self.norm(self.output(self.dropout(F.gelu(self.input(seqs)))))
        seqs = seqs * length_mask(lengths, seqs.size(1), seqs.device).unsqueeze(-1)
        logits = classify(seqs, lambda frames: frames) if classify else None
        return AdapterOutput(seqs, lengths, frame_logits=logits, frame_lengths=lengths)

    def output_rate(self, frame_rate: float) -> float:
        return frame_rate / self.stack


ADAPTERS.register("mlp", MlpConfig, MlpAdapter)
