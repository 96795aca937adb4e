"""`wlq_former`: a window-level Q-Former (arXiv 2409.17044, section 2, "WLQ-Former"; SALMONN, arXiv 2310.13289).

The Q-Former itself is BLIP-2's (arXiv 2301.12597).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from speechllm_kernels.exporting import is_exporting
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerLayer

from speechllm_plugin.adapters.api import ADAPTERS, AdapterOutput, AdapterShape, FrameClassifier
from speechllm_plugin.adapters.bert import INITIALIZER_STD, BertSizes, init_linears
from speechllm_plugin.adapters.option_checks import check_at_least, setting_error
from speechllm_plugin.adapters.projected import ProjectedAdapter
from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.tensors.masks import length_mask


@dataclass(kw_only=True)
class WlqFormerConfig(BertSizes):
    window_seconds: float = 0.33
    """Length of a window (the paper's 0.33), rounded down to whole encoder frames, at least one: 16 of Whisper's 50 Hz
    and 2 of SeamlessM4T's 6.25 Hz. Both make 3.125 vectors a second, as published (table I: 16:1, 2:1, 3.12 Hz)."""
    num_queries: int = 1
    """Learned queries, and so output vectors, of each window (the paper's 1)."""
    num_layers: int = 4
    """Layers of the Q-Former (4 by the sizes in table II)."""
    cross_attention_every: int = 2
    """Distance between the layers in which the queries attend to their window's frames, from the first layer on (2 by
    the sizes in table II)."""
    ctc_frames: Literal["before", "after"] = "before"
    """Frames that the auxiliary CTC scores: the projected ones before the windows, or the final vectors. With
    `after` the loss reaches the output itself, but a second must have enough vectors for its tokens."""
    input_projection: bool = True
    """Whether a linear layer takes the encoder's features to `dim` before the LayerNorm. False, as in the later code of
    the paper's authors: the Q-Former attends to the encoder's own width, and CTC needs `ctc_frames` after."""
    output_norm: bool = True
    """Whether a LayerNorm ends the adapter. False = a linear layer does, as in that code."""


class QFormer(nn.Module):
    """Learned queries that attend to each other and, in some layers, to the frames.

    One query has only itself to attend to: the attention among queries is then a linear layer, whose weights for
    queries and keys have no effect. They are kept, as published: 33.082 M parameters with the paper's settings
    (33.09 in table II).
    """

    def __init__(
        self, num_layers: int, num_queries: int, cross_attention_every: int, sizes: BertSizes, frame_dim: int
    ) -> None:
        """:param frame_dim: width of the frames."""
        super().__init__()
        config = Blip2QFormerConfig(
            **sizes.hf_options(num_layers),
            cross_attention_frequency=cross_attention_every,
            encoder_hidden_size=frame_dim,
            use_qformer_text_input=False,
        )
        self.queries = nn.Parameter(torch.empty(num_queries, sizes.dim))
        nn.init.normal_(self.queries, std=INITIALIZER_STD)
        self.norm = nn.LayerNorm(sizes.dim, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(sizes.dropout)
        self.layers = nn.ModuleList(Blip2QFormerLayer(config, index) for index in range(num_layers))
        init_linears(self)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """
        :param frames: `[N, T, frame_dim]`.
        :param lengths: `[N]`, at least 1, on any device; frames beyond are not attended to.
        :returns: `[N, num_queries, dim]`.
        """
        queries = self.dropout(self.norm(self.queries).expand(frames.size(0), -1, -1))
        padding = ~length_mask(lengths, frames.size(1), frames.device)
        mask = torch.zeros_like(padding, dtype=frames.dtype).masked_fill(padding, -torch.inf)
        for layer in self.layers:
            queries = layer(
                queries,  # each attends to every other
                encoder_hidden_states=frames,
                encoder_attention_mask=mask[:, None, None, :],  # (N, heads, queries, T)
                query_length=queries.size(1),
            )
        return queries


class WlqFormerAdapter(ProjectedAdapter):
    """Each window of frames is read by its own copy of the same queries, which see that window alone."""

    def __init__(self, config: WlqFormerConfig, shape: AdapterShape) -> None:
        check_at_least(config, num_queries=1, num_layers=1, cross_attention_every=1)
        frames = config.window_seconds * shape.frame_rate
        if not 0 < frames < math.inf:
            finite = "finite " if frames == math.inf else ""
            raise setting_error("window_seconds", config.window_seconds, f"a {finite}number above 0")
        super().__init__(
            config, shape, input_projection=config.input_projection, output_norm=config.output_norm
        )
        frame_dim = config.dim if config.input_projection else shape.encoder_dim
        # 0.29 s at 100 Hz are 28.999999999999996 frames.
        self.window = max(1, int(frames + 1e-6))
        self.num_queries = config.num_queries
        self.score_final = config.ctc_frames == "after"
        if self.score_final:
            if self.window % self.num_queries != 0:
                raise setting_error("num_queries", self.num_queries, f"a divisor of the window, {self.window} frames")
            self.frame_stride = self.window // self.num_queries
        elif not config.input_projection:
            self.frame_dim = None  # frames that the output's projection cannot take
        self.former = QFormer(
            config.num_layers, config.num_queries, config.cross_attention_every, config, frame_dim
        )

    def forward(
        self,
        seqs: Tensor,
        lengths: Tensor,
        target_lengths: Tensor | None = None,
        classify: FrameClassifier | None = None,
    ) -> AdapterOutput:
        frames = self.project_in(seqs, lengths)
        if is_exporting():
            vectors, windows = self._read_all_windows(frames, lengths)
        else:
            # A window that is longer than every clip holds the whole clip, and not the padding up to its own end.
            window = min(self.window, frames.size(1))
            windows = (lengths + window - 1) // window
            vectors = self._read_windows(frames, lengths, window, int(windows.sum()))
        scored = None if self.score_final else (frames, lengths)
        return self.finish(vectors, windows * self.num_queries, classify, scored)

    def _read_windows(self, frames: Tensor, lengths: Tensor, window: int, num_used: int) -> Tensor:
        """`[B, T, frame_dim]` -> `[B, ceil(T / window) * num_queries, dim]`, zeros where a row has no window.

        :param num_used: windows that hold a frame, of all rows together.
        """
        windows, in_window = _split(frames, lengths, window)
        # Only the N of the B x W windows that hold a frame are computed. Their number is known beforehand, so that
        # every shape follows from the lengths on the host.
        used = (in_window.flatten() == 0).to(torch.uint8).argsort(stable=True)[:num_used]
        read = self.former(windows.flatten(0, 1)[used], in_window.flatten()[used])  # (N, queries, dim)
        vectors = read.new_zeros(in_window.numel(), *read.shape[1:]).index_copy(0, used, read)
        return vectors.unflatten(0, in_window.shape).flatten(1, 2)

    def _read_all_windows(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`_read_windows` for `torch.export`, where no shape may follow from the lengths: windows of padding are read,
        too, as if they held one frame. Also gives the number of each row's windows."""
        windows, in_window = _split(frames, lengths, self.window)
        read = self.former(windows.flatten(0, 1), in_window.flatten().clamp(min=1))
        return read.unflatten(0, in_window.shape).flatten(1, 2), (in_window > 0).sum(dim=1)

    def output_rate(self, frame_rate: float) -> float:
        return frame_rate / self.window * self.num_queries


def _split(frames: Tensor, lengths: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """`[B, T, frame_dim]` -> windows, `[B, W, window, frame_dim]`, and the frames in each, `[B, W]`."""
    frames = F.pad(frames, (0, 0, 0, -frames.size(1) % window))
    starts = torch.arange(0, frames.size(1), window, device=frames.device)
    lengths = on_device(lengths, frames.device)
    return frames.unflatten(1, (-1, window)), (lengths.unsqueeze(1) - starts).clamp(0, window)


ADAPTERS.register("wlq_former", WlqFormerConfig, WlqFormerAdapter)
