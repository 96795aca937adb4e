"""Metrics that the units share."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from fairseq2.metrics import MetricBag
from fairseq2.metrics.aggregation import Mean, Sum
from torch import Tensor

from speechllm_plugin.datasets.batch import SpeechTextBatch


class LossMean(Mean):
    """A mean over target tokens; NaN without tokens, where torcheval's mean would be 0."""

    weighted_sum: Tensor
    weights: Tensor

    @torch.inference_mode()
    def compute(self) -> Tensor:
        return self.weighted_sum / self.weights

    @torch.inference_mode()
    def add(self, total: Tensor, count: int) -> None:
        """:param total: a sum over `count` tokens."""
        self.update(total.detach() / count, weight=count)


class LastValue(Sum):
    """The last value that was set, summed over the processes."""

    weighted_sum: Tensor

    @torch.inference_mode()
    def set(self, value: float) -> None:
        self.weighted_sum.fill_(value)


class TaskLosses:
    """`nll_loss` and the number of clips for each task, if there are several tasks."""

    def __init__(self, tasks: Sequence[str]) -> None:
        """:param tasks: names of all tasks that occur in any process."""
        self._tasks = list(tasks) if len(tasks) > 1 else []

    def prepare(self, metric_bag: MetricBag) -> None:
        for task in self._tasks:
            metric_bag.add(f"nll_loss_{task}", LossMean())
            metric_bag.add(f"num_examples_{task}", Sum())

    @torch.inference_mode()
    def update(
        self, metric_bag: MetricBag, batch: SpeechTextBatch, losses: Tensor | None, targets: Sequence[int]
    ) -> None:
        """
        :param losses: one for each clip, `[B]`; None in a step without the LLM.
        :param targets: target tokens of each clip.
        """
        for task in self._tasks:
            rows = [row for row, clip in enumerate(batch) if clip.task.name == task]
            metric_bag.get(f"num_examples_{task}", Sum).update(len(rows))
            if losses is not None and rows:
                own = torch.stack([losses[row] for row in rows]).sum()
                metric_bag.get(f"nll_loss_{task}", LossMean).add(own, sum(targets[row] for row in rows))

    def drop_absent(self, values: MutableMapping[str, object]) -> None:
        """Removes the losses of tasks that had no clip."""
        drop_absent(values, *(f"nll_loss_{task}" for task in self._tasks))


def drop_absent(values: MutableMapping[str, object], *names: str) -> None:
    """Removes losses without tokens: a step of CTC alone has no LLM loss, and a batch of one clip no neighbour."""
    for name in names:
        if name in values and number(values[name]) != number(values[name]):
            del values[name]


def number(value: object) -> float:
    """The value of a metric as a float, whether it is a tensor or not."""
    return value.item() if isinstance(value, Tensor) else float(str(value))


def headline(scores: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a score file that the log shows, by the names of fairseq2's metrics."""
    found = {}
    if "asr" in scores:
        found["wer"] = 100.0 * scores["asr"]["wer"]
    if "st" in scores:
        # fairseq2's own `chrf` is chrF++, which also counts words.
        names = {"bleu": "bleu", "chrf": "chrf2", "bleu_mean": "bleu_mean", "chrf_mean": "chrf2_mean"}
        found.update({names[key]: value for key, value in scores["st"].items() if key in names})
    if "answers" in scores:
        found.update({f"answer_{key}": 100.0 * scores["answers"][key] for key in ("exact", "f1")})
    if "silence" in scores:
        found["words_in_silence"] = scores["silence"]["words_per_minute"]
    return found
