"""`mean_pool`: the mean of a few frames and one linear layer. The least that an adapter needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechllm_plugin.adapters.api import ADAPTERS, Adapter, AdapterOutput, AdapterShape, FrameClassifier, output_norm
from speechllm_plugin.adapters.option_checks import check_at_least
from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.tensors.masks import stack_frames, zero_padding


@dataclass(kw_only=True)
class MeanPoolConfig:
    pool: int = 10
    """Encoder frames in each mean."""


class MeanPoolAdapter(Adapter):
    def __init__(self, config: MeanPoolConfig, shape: AdapterShape) -> None:
        super().__init__()
        check_at_least(config, pool=1)
        self.pool = config.pool
        self.output = nn.Linear(shape.encoder_dim, shape.llm_dim)
        self.norm = output_norm(shape)

    def forward(
        self,
        seqs: Tensor,
        lengths: Tensor,
        target_lengths: Tensor | None = None,
        classify: FrameClassifier | None = None,
    ) -> AdapterOutput:
        stacked, out_lengths = stack_frames(seqs, lengths, self.pool)  # (B, T, C) -> (B, U, pool * C)
        sums = stacked.unflatten(-1, (self.pool, -1)).sum(2)
        # The last vector of a clip may have fewer frames.
        starts = self.pool * torch.arange(sums.size(1), device=sums.device)
        # Lengths are on the host.
        frames = on_device(lengths, sums.device).unsqueeze(1)
        counts = (frames - starts).clamp(1, self.pool).unsqueeze(-1)
        vectors = self.norm(self.output(sums / counts))
        return AdapterOutput(zero_padding(vectors, out_lengths), out_lengths)


ADAPTERS.register("mean_pool", MeanPoolConfig, MeanPoolAdapter)
