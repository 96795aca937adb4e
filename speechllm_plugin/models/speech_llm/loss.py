"""The loss of a training step: its parts, and how they are mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.ctc_head import CtcLoss
from speechllm_plugin.models.speech_llm.distillation import Distilled
from speechllm_plugin.models.speech_llm.distillation_config import DistillationConfig
from speechllm_plugin.tensors.copies import on_device


@dataclass(frozen=True)
class SpeechLlmLoss:
    """Sums over the target tokens of a batch, in nats.

    All losses are normalised by the same count, the target tokens of all processes and accumulated batches, so that the
    weight of a token does not depend on how a step is divided into batches.
    """

    total: Tensor
    """The sum that is minimised."""
    lm: Tensor | None
    """The LLM's cross entropy for each clip, `[B]`; None while the adapter is aligned on CTC alone."""
    targets: list[int]
    """Target tokens of each clip."""
    count: int
    """The batch's part of the number by which the step's `total` is divided: `num_targets`, or 1 where each batch
    counts once (`loss_mean`)."""
    ctc: CtcLoss | None
    """The auxiliary CTC loss, unweighted."""
    adapter: dict[str, Tensor]
    """The adapter's own losses, unweighted; a clip's loss counts as often as the clip has target tokens."""
    token: CtcLoss | None
    """The cross entropy of the adapter's vectors with the transcript's tokens, unweighted."""
    distilled: Distilled | None = None
    """The divergence from the LLM given the transcripts."""

    @property
    def num_targets(self) -> int:
        return sum(self.targets)


def mix_losses(
    config: SpeechLlmConfig,
    targets: list[int],
    *,
    lm: Tensor | None,
    distilled: Distilled | None,
    trained_by_llm: Sequence[Tensor],
    ctc: CtcLoss | None,
    adapter: Mapping[str, Tensor],
    adapter_weights: Mapping[str, float],
    token: CtcLoss | None,
) -> SpeechLlmLoss:
    """
    :param targets: target tokens of each clip.
    :param lm: see `SpeechLlmLoss`, also for `distilled`, `ctc` and `token`.
    :param trained_by_llm: embeddings and parameters that perhaps only the LLM's loss reaches.
    :param adapter: the adapter's own losses for each clip, `[B]`.
    """
    num_targets, ctc_weight = sum(targets), config.ctc.weight or 0.0
    if lm is None:
        # CTC has weight 1, and the other losses keep their proportion to it. The product with zero gives a gradient to
        # parameters that only the LLM's loss trains, since data parallelism waits for one from each parameter.
        total: Tensor = 0.0 * sum(values.float().sum() for values in trained_by_llm)  # type: ignore[assignment]
        scale = 1.0 / ctc_weight
    else:
        total, scale = lm.sum() if distilled is None else _taught(config.distillation, lm, distilled), 1.0
    by_batch = config.loss_mean == "batches"
    if by_batch:
        total = total / num_targets
    if ctc is not None:
        total = total + scale * ctc_weight * (ctc.clip_mean if by_batch else ctc.loss)
    # Clip i with n_i target tokens adds n_i * loss_i. Divided by sum(n_i), as all losses are, this is a mean of the
            # clips' losses, as they are published.
    tokens = on_device(targets, total.device)
    adapter_losses = {name: (loss * tokens).sum() for name, loss in adapter.items()}
    for name, loss in (adapter if by_batch else adapter_losses).items():
        total = total + scale * adapter_weights[name] * (loss.mean() if by_batch else loss)
    if token is not None:
        total = total + scale * adapter_weights["token"] * (token.clip_mean if by_batch else token.loss)
    return SpeechLlmLoss(total, lm, targets, 1 if by_batch else num_targets, ctc, adapter_losses, token, distilled)


def _taught(config: DistillationConfig, cross_entropy: Tensor, distilled: Distilled) -> Tensor:
    """Mixes cross entropy and divergence for the clips that have a teacher, by the teacher's weight.

    :param cross_entropy: one for each clip, `[B]`.
    """
    rows = set(distilled.rows)
    shares = [1.0 - config.weight if row in rows else 1.0 for row in range(len(cross_entropy))]
    taught = cross_entropy * on_device(shares, cross_entropy.device)
    return taught.sum() + config.weight * config.temperature**2 * distilled.divergence.sum()
