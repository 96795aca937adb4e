"""`conv`: strided convolutions between the Transformer layers (arXiv 2409.17044, section 2, "Conv-based")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from speechllm_plugin.adapters.api import ADAPTERS, AdapterOutput, AdapterShape, FrameClassifier
from speechllm_plugin.adapters.bert import BertLayers, BertSizes
from speechllm_plugin.adapters.option_checks import check_at_least, setting_error
from speechllm_plugin.adapters.projected import ProjectedAdapter
from speechllm_plugin.tensors.masks import zero_padding


@dataclass(kw_only=True)
class ConvConfig(BertSizes):
    layers_before: int = 2
    """Transformer layers before the convolutions (the paper's 2)."""
    num_convs: int = 2
    """Convolutions, each followed by a LayerNorm, with a ReLU between them (the paper's 2)."""
    kernel: int = 3
    """Frames that a convolution sees; odd, so that each output stands at the middle of what it saw (3 in the code of
    the authors of arXiv 2409.17044)."""
    stride: int = 2
    """Frames that a convolution turns into one; `num_convs` of them compress by `stride ** num_convs` (the paper's 2,
    4 in all: Whisper's 50 Hz become 12.5 Hz)."""
    layers_after: int = 2
    """Transformer layers after the convolutions (the paper's 2)."""
    ctc_frames: Literal["before", "after"] = "before"
    """Frames that the auxiliary CTC scores: those before the convolutions, or the final ones. With `after` the loss
    reaches the output itself, but a second must still have enough frames for its tokens."""


class ConvBlock(nn.Module):
    """A convolution over time and a LayerNorm. A row gives `ceil(length / stride)` frames, at least one."""

    def __init__(self, dim: int, kernel: int, stride: int, *, relu: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim)
        self.activation = nn.ReLU() if relu else nn.Identity()

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, T, dim]` -> `[B, ceil(T / stride), dim]`, with lengths."""
        # Zeros beyond a row's end are what the convolution pads a lone row with: no result depends on the batch.
        frames = zero_padding(frames, lengths)
        frames = self.conv(frames.transpose(1, 2)).transpose(1, 2)  # convolved as (B, dim, T)
        stride = self.conv.stride[0]
        return self.activation(self.norm(frames)), (lengths + stride - 1) // stride


class ConvAdapter(ProjectedAdapter):
    """4 Transformer layers and 3.544 M parameters in two convolutions with their norms.

    The paper's table II has 25.20 M for this length adapter, the same to the digit as for CTC's linear layer over
    Mistral's vocabulary; no two convolutions of these widths have that many.
    """

    def __init__(self, config: ConvConfig, shape: AdapterShape) -> None:
        check_at_least(config, layers_before=0, layers_after=0, num_convs=1, stride=1)
        if config.kernel < 1 or config.kernel % 2 == 0:
            raise setting_error("kernel", config.kernel, "an odd number of at least 1")
        super().__init__(config, shape)
        self.config = config
        self.compression = config.stride**config.num_convs
        self.frame_stride = 1 if config.ctc_frames == "before" else self.compression
        self.layers_before = BertLayers(config.layers_before, config)
        self.convs = nn.ModuleList(
            ConvBlock(config.dim, config.kernel, config.stride, relu=i < config.num_convs - 1)
            for i in range(config.num_convs)
        )
        self.layers_after = BertLayers(config.layers_after, config)

    def forward(
        self,
        seqs: Tensor,
        lengths: Tensor,
        target_lengths: Tensor | None = None,
        classify: FrameClassifier | None = None,
    ) -> AdapterOutput:
        frames = self.layers_before(self.project_in(seqs, lengths), lengths)
        scored = (frames, lengths) if self.config.ctc_frames == "before" else None
        for conv in self.convs:
            frames, lengths = conv(frames, lengths)
        frames = self.layers_after(frames, lengths)
        return self.finish(frames, lengths, classify, scored)

    def output_rate(self, frame_rate: float) -> float:
        return frame_rate / self.compression


ADAPTERS.register("conv", ConvConfig, ConvAdapter)
