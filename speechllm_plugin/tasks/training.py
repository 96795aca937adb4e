"""The training unit."""

from __future__ import annotations

import math

import torch
from fairseq2.metrics import MetricBag
from fairseq2.metrics.aggregation import Mean, Sum
from fairseq2.metrics.common import add_nll_loss_metric, update_nll_loss_metric
from fairseq2.recipe.trainer import TrainUnit
from torch import Tensor, nn
from typing_extensions import override

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.reader import SpeechTextReader
from speechllm_plugin.models.speech_llm.model import SpeechLlmLoss


class SpeechLlmTrainUnit(TrainUnit[SpeechTextBatch]):
    def __init__(self, model: nn.Module, *, align_steps: int, has_ctc: bool, reader: SpeechTextReader) -> None:
        """
        :param model: a `SpeechLlm`, possibly wrapped for data parallelism.
        :param align_steps: steps that train on CTC alone.
        """
        self._model = model
        self._align_steps = align_steps
        self._has_ctc = has_ctc
        self._reader = reader
        self._step_nr = 0

    @override
    def set_step_nr(self, step_nr: int) -> None:
        self._step_nr = step_nr

    @override
    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        add_nll_loss_metric(metric_bag)
        if self._has_ctc:
            metric_bag.add("ctc_loss", Mean())
            metric_bag.add("ctc_infeasible", Sum())
        for name in ("num_examples", "num_target_elements", "audio_seconds", "skipped_clips"):
            metric_bag.add(name, Sum())

    @override
    def process_batch(self, batch: SpeechTextBatch, metric_bag: MetricBag) -> tuple[Tensor, int]:
        loss: SpeechLlmLoss = self._model(batch, lm=self._step_nr > self._align_steps)
        if not math.isfinite(loss.total.item()):
            raise FloatingPointError(
                f"the loss is {loss.total.item()} at step {self._step_nr} for the utterances {', '.join(batch.ids)}"
            )
        update_loss_metrics(metric_bag, loss, len(batch), sum(batch.seconds))
        _reset_to(metric_bag, "skipped_clips", len(self._reader.skipped))
        return loss.total, loss.num_targets


@torch.inference_mode()
def update_loss_metrics(metric_bag: MetricBag, loss: SpeechLlmLoss, num_clips: int, seconds: float) -> None:
    if loss.lm is not None:
        update_nll_loss_metric(metric_bag, loss.lm, loss.num_targets)
    if "ctc" in loss.auxiliary:
        mean = loss.auxiliary["ctc"].detach() / loss.num_targets
        metric_bag.get("ctc_loss", Mean).update(mean, weight=loss.num_targets)
        metric_bag.get("ctc_infeasible", Sum).update(loss.infeasible_ctc)
    metric_bag.get("num_examples", Sum).update(num_clips)
    metric_bag.get("num_target_elements", Sum).update(loss.num_targets)
    metric_bag.get("audio_seconds", Sum).update(seconds)


def _reset_to(metric_bag: MetricBag, name: str, value: int) -> None:
    metric = metric_bag.get(name, Sum)
    metric.reset()
    metric.update(value)
