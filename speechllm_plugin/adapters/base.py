"""`base`: four Transformer layers and no compression (arXiv 2409.17044, section 2, "Base")."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from speechllm_plugin.adapters.api import ADAPTERS, AdapterOutput, AdapterShape, FrameClassifier
from speechllm_plugin.adapters.bert import BertLayers, BertSizes
from speechllm_plugin.adapters.option_checks import check_at_least
from speechllm_plugin.adapters.projected import ProjectedAdapter


@dataclass(kw_only=True)
class BaseConfig(BertSizes):
    num_layers: int = 4
    """Transformer layers (the paper's 4)."""


class BaseAdapter(ProjectedAdapter):
    def __init__(self, config: BaseConfig, shape: AdapterShape) -> None:
        check_at_least(config, num_layers=0)
        super().__init__(config, shape)
        self.layers = BertLayers(config.num_layers, config)

    def forward(
        self,
        seqs: Tensor,
        lengths: Tensor,
        target_lengths: Tensor | None = None,
        classify: FrameClassifier | None = None,
    ) -> AdapterOutput:
        frames = self.layers(self.project_in(seqs, lengths), lengths)
        return self.finish(frames, lengths, classify)

    def output_rate(self, frame_rate: float) -> float:
        return frame_rate


ADAPTERS.register("base", BaseConfig, BaseAdapter)
