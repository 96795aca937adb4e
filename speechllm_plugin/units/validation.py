"""The validation unit: the loss, a loss that shows whether the system listens, and the scores of its texts."""

from __future__ import annotations

import math
import time
from collections.abc import MutableMapping, Sequence

import torch
from fairseq2.gang import Gang
from fairseq2.metrics import MetricBag
from fairseq2.metrics.aggregation import Sum
from fairseq2.recipe.evaluator import EvalUnit
from typing_extensions import override

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.reader import TrainerBatch
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.log import log
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.scoring.report import score
from speechllm_plugin.tensors.modes import without_gradients
from speechllm_plugin.units.hypotheses import DecodedSplit, gather
from speechllm_plugin.units.metrics import LossMean, TaskLosses, drop_absent, headline

ENDLESS = 8
"""A validation stops decoding after this many answers in a row without an end."""


class SpeechLlmValidUnit(EvalUnit[TrainerBatch]):
    """Reports `nll_loss`, `other_audio_loss` (the loss when each clip gets its neighbour's audio: about equal until
    the system listens) and the scores of a score file: `wer` of transcriptions (after the `basic` normaliser), `bleu`
    and `chrf2` of translations, `answer_exact` and `answer_f1` of answers.

    It computes without autocast, as evaluation and transcription do, so that they agree on the best checkpoint."""

    def __init__(
        self,
        model: SpeechLlm,
        *,
        name: str,
        tasks: Sequence[str],
        gang: Gang,
        decode: bool,
        decoding: DecodingConfig,
    ) -> None:
        """
        :param tasks: names of all tasks in the split.
        """
        self._model = model
        self._name = name
        self._gang = gang
        self._by_task = TaskLosses(tasks)
        self._decode = decode
        self._endless = 0
        """Hypotheses in a row that the length limit ended."""
        self._left_out = 0
        """Clips that were not decoded."""
        self._decoding = decoding
        self._decoded = DecodedSplit()
        self._scores: dict[str, float] = {}

    @override
    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        metric_bag.add("nll_loss", LossMean())
        metric_bag.add("other_audio_loss", LossMean())
        metric_bag.add("num_examples", Sum())
        self._by_task.prepare(metric_bag)

    @override
    @without_gradients()
    def process_batch(self, batch: TrainerBatch, metric_bag: MetricBag) -> None:
        with torch.autocast(next(self._model.parameters()).device.type, enabled=False):
            own, other, targets = self._model.swapped_loss(batch)
            if self._decode:
                self._try_to_decode(batch)
            self._model.wait_for_others()
        if not batch.counted:
            return
        metric_bag.get("nll_loss", LossMean).add(own.sum(), sum(targets))
        if len(batch) > 1:
            metric_bag.get("other_audio_loss", LossMean).add(other.sum(), sum(targets))
        metric_bag.get("num_examples", Sum).update(len(batch))
        self._by_task.update(metric_bag, batch, own, targets)

    def _try_to_decode(self, batch: SpeechTextBatch) -> None:
        """Decodes unless `ENDLESS` answers in a row did not end. A system without training runs to the limit with every
        clip, and minutes of that would tell no more than seconds."""
        if self._endless >= ENDLESS:
            self._left_out += len(batch) * batch.counted
            return
        start = time.perf_counter()
        texts, generated = self._model.generate(batch, self._decoding)
        for hypothesis in generated:
            self._endless = self._endless + 1 if hypothesis.cut else 0
        if batch.counted:
            self._decoded.add(batch, texts, generated, time.perf_counter() - start)

    @override
    def finalize(self, metric_bag: MetricBag) -> None:
        if self._left_out:
            log.info(
                "{}: {} clips were not decoded, as the answers to {} in a row did not end; the scores are those of the "
                "others.", self._name, self._left_out, self._endless,
            )
        decoded = gather(self._decoded, self._gang)
        scores = headline(score(decoded.ordered())) if decoded.rows else {}
        self._scores = {name: value for name, value in scores.items() if math.isfinite(value)}
        self._decoded = DecodedSplit()
        self._endless = self._left_out = 0

    @override
    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        drop_absent(values, "other_audio_loss")
        self._by_task.drop_absent(values)
        values.update(self._scores)

    @property
    @override
    def name(self) -> str | None:
        return self._name
