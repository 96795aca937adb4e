"""What a training step minimises, part by part, and how the parts are mixed."""

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
    :param lm: see `SpeechLlmLoss`, as `distilled`, `ctc` and `token`.
    :param trained_by_llm: what only the LLM's loss may reach.
    :param adapter: the adapter's own losses of each clip, `[B]`.
    """
    num_targets, ctc_weight = sum(targets), config.ctc.weight or 0.0
    if lm is None:
        # CTC has weight 1 and the others keep their proportion to it. The zero gives a gradient to the parameters that
        # only the LLM's loss trains: data parallelism waits for one from each.
        total: Tensor = 0.0 * sum(values.float().sum() for values in trained_by_llm)  # type: ignore[assignment]
        scale = 1.0 / ctc_weight
    else:
        total, scale = lm.sum() if distilled is None else _taught(config.distillation, lm, distilled), 1.0
    by_batch = config.loss_mean == "batches"
    if by_batch:
        total = total / num_targets
    if ctc is not None:
        total = total + scale * ctc_weight * (ctc.clip_mean if by_batch else ctc.loss)
    # Clip i with n_i target tokens adds n_i * loss_i: divided by sum(n_i), as all losses are, that is a mean of the
    # clips' losses, which is how they are published.
    tokens = on_device(targets, total.device)
    adapter_losses = {name: (loss * tokens).sum() for name, loss in adapter.items()}
    for name, loss in (adapter if by_batch else adapter_losses).items():
        total = total + scale * adapter_weights[name] * (loss.mean() if by_batch else loss)
    if token is not None:
        total = total + scale * adapter_weights["token"] * (token.clip_mean if by_batch else token.loss)
    return SpeechLlmLoss(total, lm, targets, 1 if by_batch else num_targets, ctc, adapter_losses, token, distilled)


def _taught(config: DistillationConfig, cross_entropy: Tensor, distilled: Distilled) -> Tensor:
    """Cross entropy and divergence of the clips that have a teacher, in the proportion of its weight.

    :param cross_entropy: of each clip, `[B]`.
    """
    rows = set(distilled.rows)
    shares = [1.0 - config.weight if row in rows else 1.0 for row in range(len(cross_entropy))]
    taught = cross_entropy * on_device(shares, cross_entropy.device)
    return taught.sum() + config.weight * config.temperature**2 * distilled.divergence.sum()
