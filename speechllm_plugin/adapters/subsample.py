"""`subsample`: every fourth frame and a few Transformer layers, the adapter of SLM (arXiv 2310.00230)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from speechllm_plugin.adapters.api import ADAPTERS, AdapterOutput, AdapterShape, FrameClassifier
from speechllm_plugin.adapters.bert import BertLayers, BertSizes
from speechllm_plugin.adapters.option_checks import check_at_least, setting_error
from speechllm_plugin.adapters.projected import ProjectedAdapter


@dataclass(kw_only=True)
class SubsampleConfig(BertSizes):
    ratio: int = 4
    """Encoder frames of which the first is kept (SLM's 4)."""
    num_layers: int = 2
    """Transformer layers (SLM's 2; more than 2 brought it little)."""
    output_projection: bool = True
    """Whether a linear layer takes the layers' output to the LLM's width. False requires `dim` to be that width."""


class SubsampleAdapter(ProjectedAdapter):
    """Keeps every `ratio`-th frame and discards the others, since the encoder's own layers have already mixed
    neighbours. (`mlp` joins neighbours instead.) The layers are BERT-base's, as in the other adapters.
    """

    def __init__(self, config: SubsampleConfig, shape: AdapterShape) -> None:
        check_at_least(config, ratio=1, num_layers=0)
        if not config.output_projection and config.dim != shape.llm_dim:
            raise setting_error("dim", config.dim, f"the LLM's width, {shape.llm_dim}, without output_projection")
        super().__init__(config, shape, output_projection=config.output_projection)
        self.ratio = self.frame_stride = config.ratio
        self.layers = BertLayers(config.num_layers, config)

    def forward(
        self,
        seqs: Tensor,
        lengths: Tensor,
        target_lengths: Tensor | None = None,
        classify: FrameClassifier | None = None,
    ) -> AdapterOutput:
        seqs = seqs[:, :: self.ratio]
        lengths = (lengths + self.ratio - 1) // self.ratio
        frames = self.layers(self.project_in(seqs, lengths), lengths)
        return self.finish(frames, lengths, classify)

    def output_rate(self, frame_rate: float) -> float:
        return frame_rate / self.ratio


ADAPTERS.register("subsample", SubsampleConfig, SubsampleAdapter)
