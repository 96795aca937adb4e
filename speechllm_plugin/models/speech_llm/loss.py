"""What a training step minimises, part by part."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from speechllm_plugin.models.speech_llm.ctc_head import CtcLoss
from speechllm_plugin.models.speech_llm.distillation import Distilled


@dataclass(frozen=True)
class SpeechLlmLoss:
    """Sums over the target tokens of a batch, in nats.

    All are normalised by the same count, the target tokens of every process and accumulated batch: what one token
    weighs does not depend on how the batch was divided.
    """

    total: Tensor
    """What is minimised."""
    lm: Tensor | None
    """The LLM's cross entropy for each clip, `[B]`; None while the adapter is aligned on CTC alone."""
    targets: list[int]
    """Target tokens of each clip."""
    count: int
    """What `total` is divided by, with those of the other batches of a step: `num_targets`, or 1 where each batch
    counts once (`loss_mean`)."""
    ctc: CtcLoss | None
    """The auxiliary CTC loss, unweighted."""
    adapter: dict[str, Tensor]
    """The adapter's own losses, unweighted, each clip's as often as it has target tokens."""
    token: CtcLoss | None
    """The cross entropy of the adapter's vectors with the transcript's tokens, unweighted."""
    distilled: Distilled | None = None
    """The divergence from the LLM given the transcripts."""

    @property
    def num_targets(self) -> int:
        return sum(self.targets)
