"""`ctc`: runs of frames with the same CTC label become one vector (arXiv 2409.17044, section 2, "CTC-based").

The compression is that of Gaido et al. (arXiv 2102.01578), with runs of blanks kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from speechllm_kernels.ctc_collapse import ctc_collapse
from torch import Tensor

from speechllm_plugin.adapters.api import ADAPTERS, AdapterOutput, AdapterShape, FrameClassifier
from speechllm_plugin.adapters.bert import BertLayers, BertSizes
from speechllm_plugin.adapters.option_checks import check_at_least
from speechllm_plugin.adapters.projected import ProjectedAdapter
from speechllm_plugin.errors import UserError
from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.tensors.logits import LinearLogits, whole
from speechllm_plugin.tensors.masks import zero_padding


@dataclass(kw_only=True)
class CtcAdapterConfig(BertSizes):
    layers_before: int = 2
    """Transformer layers before the compression (the paper's 2)."""
    layers_after: int = 2
    """Transformer layers after the compression (the paper's 2)."""
    weighting: Literal["mean", "prob", "softmax"] = "mean"
    """Weights of a run's frames in its vector. `mean`: equal (the paper). `prob`: the probability of the label.
    `softmax`: the softmax of that probability over the run."""
    detach: bool = False
    """Whether the gradient of the LLM's loss ends at the compression, as in the code of the paper's authors: the CTC
    loss alone then trains the input projection, the layers before and the CTC head. By default it flows on through
    the frames that each vector averages and, with `prob` and `softmax`, through their weights to the CTC head. The
    labels, an argmax, pass no gradient either way."""


class CtcAdapter(ProjectedAdapter):
    """Compresses by the greedy labels of the auxiliary CTC head, on the frames that its loss is taken on.

    Beside the 4 Transformer layers it has the head, 25.199 M parameters over Mistral's vocabulary (table II). The paper
    counts 32768 labels; our linear head has one more, the blank (769 parameters).
    """

    needs_classifier = True
    ctc_weight = 0.1  # arXiv 2409.17044

    def __init__(self, config: CtcAdapterConfig, shape: AdapterShape) -> None:
        check_at_least(config, layers_before=0, layers_after=0)
        super().__init__(config, shape)
        self.config = config
        self.layers_before = BertLayers(config.layers_before, config)
        self.layers_after = BertLayers(config.layers_after, config)

    def forward(
        self,
        seqs: Tensor,
        lengths: Tensor,
        target_lengths: Tensor | None = None,
        classify: FrameClassifier | None = None,
    ) -> AdapterOutput:
        """:raises UserError: `classify` is None."""
        if classify is None:
            raise UserError(
                "ctc.weight: found 0, expected a number above 0: the adapter 'ctc' compresses by the labels of the "
                "auxiliary CTC"
            )
        frames = self.layers_before(self.project_in(seqs, lengths), lengths)
        logits = classify(frames, self.project_out)
        # Weights of frames are probabilities, whose gradient needs all logits; means need the labels alone.
        labels = None
        if isinstance(logits, LinearLogits) and logits.are_many and self.config.weighting == "mean":
            labels = logits.best()
        collapsed = ctc_collapse(
            frames.detach() if self.config.detach else frames,
            on_device(lengths, frames.device),
            logits=whole(logits) if labels is None else None,
            labels=labels,
            weighting=self.config.weighting,
            detach=self.config.detach,
        )
        # Only these lengths depend on the sound: the host reads them once, with their maximum.
        known = collapsed.lengths.cpu() if collapsed.host_lengths is None else collapsed.host_lengths
        vectors = self.layers_after(collapsed.seqs, known)
        return AdapterOutput(
            zero_padding(self.project_out(vectors), known),
            known,
            frame_logits=logits,
            frame_lengths=lengths,
            starts=collapsed.starts,
            ends=collapsed.ends,
        )


ADAPTERS.register("ctc", CtcAdapterConfig, CtcAdapter)
