"""`cif`: frames integrated into one vector for each token of the transcript (arXiv 2409.17044, section 2, "CIF-based").

Continuous integrate-and-fire is from arXiv 1905.11235.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
import torch.nn.functional as F
from speechllm_kernels.cif import CifOutput, cif
from speechllm_kernels.exporting import is_exporting
from torch import Tensor, nn

from speechllm_plugin.adapters.api import ADAPTERS, AdapterOutput, AdapterShape, FrameClassifier
from speechllm_plugin.adapters.bert import BertLayers, BertSizes
from speechllm_plugin.adapters.option_checks import check_at_least, setting_error
from speechllm_plugin.adapters.projected import ProjectedAdapter
from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.tensors.masks import length_mask, zero_padding

TAIL_THRESHOLD = 0.5
"""In decoding, the least weight left over at the end of a clip that still becomes a vector (the code of the authors of
arXiv 2409.17044)."""
SMALLEST_WEIGHT = 1e-20
"""Lower bound of a frame's weight: where sigmoid underflows to 0 in all frames, their sum could not be scaled."""


@dataclass(kw_only=True)
class CifConfig(BertSizes):
    layers_before: int = 2
    """Transformer layers before the integration (the paper's 2)."""
    layers_after: int = 2
    """Transformer layers after the integration (the paper's 2)."""
    kernel: int = 5
    """Frames from which the weight of a frame is predicted; odd (5 by the sizes in table II of arXiv 2409.17044)."""
    quantity_weight: float = 0.1
    """Weight, beside the LLM's loss, of the quantity loss: how far the sum of a clip's weights is from the number of
    its tokens (the paper's 0.1)."""
    scale_eps: float = 0.0
    """Added to the number of tokens that a clip's weights are scaled to in training. The code of the paper's authors
    has 1e-4, so that rounding cannot lose the last vector; here the last vector takes the rounding, and 0 is exact."""
    token_weight: float = 0.0
    """Weight, beside the LLM's loss, of the cross entropy of each vector with its token, by the CTC head: CIF was first
    trained on its vectors' tokens (arXiv 1905.11235). 0 = none (arXiv 2409.17044). It teaches the weights where tokens
    end: after 360 steps with its LLM the embedded default has 4 % WER with 0.3, and 93 % without."""


class WeightPredictor(nn.Module):
    """The weight of each frame, between 0 and 1: convolution, LayerNorm, ReLU, linear layer, sigmoid.

    2.952 M parameters of width 768. Table II's 2.951 M are the convolution and the linear layer; the LayerNorm has
    1536 more.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, 1)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """`[B, T, dim]` -> `[B, T]`, float32 at least."""
        # Zeros beyond a row's end are what the convolution pads a lone row with: no result depends on the batch.
        frames = zero_padding(frames, lengths)
        frames = self.conv(frames.transpose(1, 2)).transpose(1, 2)  # convolved as (B, dim, T)
        frames = self.norm(frames).relu()
        # Weights are summed over a clip: with scores in bfloat16, 500 frames sum to up to 0.3 tokens too many.
        dtype = torch.promote_types(frames.dtype, torch.float32)
        with torch.autocast(frames.device.type, enabled=False):
            scores = F.linear(frames.to(dtype), self.output.weight.to(dtype), self.output.bias.to(dtype))
        return scores.squeeze(-1).sigmoid().clamp(min=SMALLEST_WEIGHT)


class CifAdapter(ProjectedAdapter):
    """Every vector is a mean of consecutive frames whose weights sum to 1.

    In training, where the transcript's length is given, a clip's weights are scaled so that it gives as many vectors
    as the transcript has tokens, but never more than it has frames. In decoding a vector is complete at the weight
    1.0; a rest of at least 0.5 at the end becomes a vector, too, and is scaled to 1, as the last vector of a clip is in
    training. A clip whose weights sum to less gives one vector, the weighted mean of all its frames.
    """

    vector_per_token = True
    ctc_weight = 0.1  # arXiv 2409.17044
    loss_names = MappingProxyType({"quantity": "CIF quantity loss", "token": "CIF token loss"})

    def __init__(self, config: CifConfig, shape: AdapterShape) -> None:
        check_at_least(config, layers_before=0, layers_after=0, quantity_weight=0, scale_eps=0, token_weight=0)
        if config.kernel < 1 or config.kernel % 2 == 0:
            raise setting_error("kernel", config.kernel, "an odd number of at least 1")
        super().__init__(config, shape)
        self.scale_eps = config.scale_eps
        self.loss_weights = {"quantity": config.quantity_weight}
        if config.token_weight > 0:
            self.loss_weights["token"] = config.token_weight
        self.layers_before = BertLayers(config.layers_before, config)
        self.weights = WeightPredictor(config.dim, config.kernel)
        self.layers_after = BertLayers(config.layers_after, config)

    def forward(
        self,
        seqs: Tensor,
        lengths: Tensor,
        target_lengths: Tensor | None = None,
        classify: FrameClassifier | None = None,
    ) -> AdapterOutput:
        frames = self.layers_before(self.project_in(seqs, lengths), lengths)
        weights = self.weights(frames, lengths)
        on_it = on_device(lengths, frames.device)
        if self.training and target_lengths is not None:
            wanted = target_lengths
            if (target_lengths < 0).any():
                # A clip without a transcript gives as many vectors as its weights sum to.
                own = (weights.detach() * length_mask(on_it, weights.size(1))).sum(dim=1).round().long().cpu()
                wanted = torch.where(target_lengths < 0, own, target_lengths)
            # More vectors than frames would repeat frames; a transcript without a token still gets its one vector.
            given = torch.minimum(wanted, lengths).clamp(min=1)
            fired = cif(
                frames, weights, on_it, target_lengths=on_device(given, frames.device), scale_eps=self.scale_eps,
                max_output_length=int(given.max()),
            )  # fmt: skip
            total = fired.alpha_sum
        else:
            fired, total = self._integrate(frames, weights, on_it)
            given = fired.lengths.cpu()
        vectors = self.layers_after(fired.seqs, given)
        starts, ends = _spans(fired)
        losses = {}
        if target_lengths is not None:
            tokens = on_device(target_lengths, frames.device)
            losses["quantity"] = (total - tokens).abs().masked_fill(tokens < 0, 0.0)
        output = self.finish(vectors, given, classify, scored=(frames, lengths))
        token_logits = None
        if "token" in self.loss_weights and self.training and target_lengths is not None and classify is not None:
            token_logits = classify(vectors, lambda _: output.seqs)
        return replace(output, losses=losses, token_logits=token_logits, starts=starts, ends=ends)

    def _integrate(self, frames: Tensor, weights: Tensor, lengths: Tensor) -> tuple[CifOutput, Tensor]:
        """Integrates without a target length. Also gives the sums of the weights, `[B]`, before any scaling."""
        fired = cif(frames, weights, lengths, tail_threshold=TAIL_THRESHOLD, tail_rescale="renorm")
        total, empty = fired.alpha_sum, fired.lengths == 0
        # An exported graph has no branches: all rows go through it, and those that gave vectors are scaled by 1.
        if is_exporting() or empty.any():
            scale = torch.where(empty, 1 / total, 1.0).to(weights.dtype)
            weights = weights * scale.unsqueeze(1)
            fired = cif(frames, weights, lengths, tail_threshold=TAIL_THRESHOLD, tail_rescale="renorm")
        return fired, total


def _spans(fired: CifOutput) -> tuple[Tensor, Tensor]:
    """The frames that each vector integrates, from the first to one past the last, `[B, U]`; 0 beyond a length.

    A frame in which a vector completes is divided between it and the next one, and belongs to both spans.
    """
    used = length_mask(fired.lengths, fired.fire_frames.size(1))
    starts = F.pad(fired.fire_frames, (1, 0))[:, :-1]
    return starts.masked_fill(~used, 0), (fired.fire_frames + 1).masked_fill(~used, 0)


ADAPTERS.register("cif", CifConfig, CifAdapter)
