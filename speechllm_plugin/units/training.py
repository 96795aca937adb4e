"""The training unit."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from fairseq2.metrics import MetricBag
from fairseq2.metrics.aggregation import Sum
from fairseq2.recipe.trainer import TrainUnit
from torch import Tensor, nn
from typing_extensions import override

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.reader import SpeechTextReader, TrainerBatch
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.loss import SpeechLlmLoss
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.units.finite_losses import FiniteLosses
from speechllm_plugin.units.metrics import LastValue, LossMean, TaskLosses, drop_absent, number

IDLE_STEPS = 50
"""A run ends after this many steps in a row without a gradient."""


class SpeechLlmTrainUnit(TrainUnit[TrainerBatch]):
    def __init__(self, model: SpeechLlm, data_parallel: nn.Module, reader: SpeechTextReader) -> None:
        """:param data_parallel: the same model, possibly wrapped for data parallelism."""
        self._model = data_parallel
        self._align_steps = model.config.ctc.align_steps
        self._distils = model.config.distillation.weight > 0
        self._has_ctc = model.ctc is not None
        self._adapter_losses = tuple(model.adapter.loss_weights)
        self._by_task = TaskLosses(reader.tasks)
        self._reader = reader
        self.losses = FiniteLosses()
        self._step_nr = 0
        self._steps_since_report = 0
        self._idle_steps = 0

    @override
    def set_step_nr(self, step_nr: int) -> None:
        self._step_nr = step_nr
        self._steps_since_report += 1

    @override
    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        metric_bag.add("nll_loss", LossMean())
        if self._distils:
            metric_bag.add("divergence", LossMean())
        if self._has_ctc:
            metric_bag.add("ctc_loss", LossMean())
            metric_bag.add("ctc_infeasible", Sum())
        for name in self._adapter_losses:
            metric_bag.add(f"{name}_loss", LossMean())
        for name in ("num_examples", "num_target_elements", "audio_seconds"):
            metric_bag.add(name, Sum())
        metric_bag.add("skipped_clips", LastValue())
        self._by_task.prepare(metric_bag)

    @override
    def process_batch(self, batch: TrainerBatch, metric_bag: MetricBag) -> tuple[Tensor, int]:
        loss: SpeechLlmLoss = self._model(batch, lm=self._step_nr > self._align_steps)
        self.losses.add(loss.total, self._step_nr, batch.ids)
        self._update_metrics(metric_bag, batch, loss)
        return loss.total, loss.count

    @torch.inference_mode()
    def _update_metrics(self, metric_bag: MetricBag, batch: SpeechTextBatch, loss: SpeechLlmLoss) -> None:
        if loss.lm is not None:
            metric_bag.get("nll_loss", LossMean).add(loss.lm.sum(), loss.num_targets)
        if loss.distilled is not None:
            metric_bag.get("divergence", LossMean).add(loss.distilled.divergence.sum(), loss.distilled.num_targets)
        self._by_task.update(metric_bag, batch, loss.lm, loss.targets)
        if loss.ctc is not None:
            if loss.ctc.num_labels:
                metric_bag.get("ctc_loss", LossMean).add(loss.ctc.loss, loss.ctc.num_labels)
            metric_bag.get("ctc_infeasible", Sum).update(loss.ctc.infeasible)
        if loss.token is not None and loss.token.num_labels:
            metric_bag.get("token_loss", LossMean).add(loss.token.loss, loss.token.num_labels)
        for name, value in loss.adapter.items():
            metric_bag.get(f"{name}_loss", LossMean).add(value, loss.num_targets)
        metric_bag.get("num_examples", Sum).update(len(batch))
        metric_bag.get("num_target_elements", Sum).update(loss.num_targets)
        metric_bag.get("audio_seconds", Sum).update(sum(batch.seconds))
        # The count is that of the whole run, and not since the last report.
        metric_bag.get("skipped_clips", LastValue).set(len(self._reader.skipped))

    @override
    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        self.losses.check()
        drop_absent(values, "nll_loss", "divergence", "ctc_loss", "token_loss")
        self._by_task.drop_absent(values)
        self._check_gradient(number(values["grad_norm"]))

    def _check_gradient(self, norm: float) -> None:
        """:param norm: the mean of the steps since the last report."""
        self._idle_steps = self._idle_steps + self._steps_since_report if norm == 0 else 0
        self._steps_since_report = 0
        if self._idle_steps >= IDLE_STEPS:
            raise UserError(
                f"training: found a gradient of 0 in each of the last {self._idle_steps} steps, up to step "
                f"{self._step_nr}, expected a loss that trains something; with CTC alone (ctc.align_steps) that needs "
                "rows that it can align"
            )
