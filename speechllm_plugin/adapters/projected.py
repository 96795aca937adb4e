"""What the published adapters share: a projection to their own width, and one to the LLM's."""

from __future__ import annotations

from torch import Tensor, nn

from speechllm_plugin.adapters.api import Adapter, AdapterOutput, AdapterShape, FrameClassifier
from speechllm_plugin.adapters.api import output_norm as output_norm_of
from speechllm_plugin.adapters.bert import BertSizes, check_sizes
from speechllm_plugin.tensors.masks import zero_padding


class ProjectedAdapter(Adapter):
    """Linear + LayerNorm in, Linear + LayerNorm out (arXiv 2409.17044); what happens in between is the adapter's own.

    Table II of the paper leaves both projections out of its counts.
    """

    def __init__(
        self,
        sizes: BertSizes,
        shape: AdapterShape,
        *,
        input_projection: bool = True,
        output_projection: bool = True,
        output_norm: bool = True,
    ) -> None:
        """
        :param input_projection: False leaves the features at the encoder's width.
        :param output_projection: False where the layers already have the LLM's width.
        """
        super().__init__()
        check_sizes(sizes)
        self.frame_dim = sizes.dim
        self.input = nn.Linear(shape.encoder_dim, sizes.dim) if input_projection else nn.Identity()
        self.input_norm = nn.LayerNorm(sizes.dim if input_projection else shape.encoder_dim)
        self.output = nn.Linear(sizes.dim, shape.llm_dim) if output_projection else nn.Identity()
        self.norm = output_norm_of(shape) if output_norm else nn.Identity()

    def project_in(self, seqs: Tensor, lengths: Tensor) -> Tensor:
        """`[B, T, encoder_dim]` -> `[B, T, dim]`, or `[B, T, encoder_dim]` without a projection; what lies beyond a
        length is not read."""
        return self.input_norm(self.input(zero_padding(seqs, lengths)))

    def project_out(self, frames: Tensor) -> Tensor:
        """`[B, U, dim]` -> `[B, U, llm_dim]`."""
        return self.norm(self.output(frames))

    def finish(
        self,
        frames: Tensor,
        lengths: Tensor,
        classify: FrameClassifier | None,
        scored: tuple[Tensor, Tensor] | None = None,
    ) -> AdapterOutput:
        """Projects the final frames, `[B, U, dim]`, and has frames scored for CTC.

        :param scored: frames before the compression, with their lengths, to be scored instead of the final ones. The
            adapter's own output projection takes them to the LLM's space for a classifier that works there: the layers
            start close to the identity, so that aligning these frames aligns the output.
        """
        seqs = self.project_out(frames)
        logits = None
        if scored is None:
            scored = frames, lengths
            if classify is not None:
                logits = classify(frames, lambda _: seqs)
        elif classify is not None:
            logits = classify(scored[0], self.project_out)
        return AdapterOutput(zero_padding(seqs, lengths), lengths, frame_logits=logits, frame_lengths=scored[1])
