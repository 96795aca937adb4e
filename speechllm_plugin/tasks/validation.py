"""The validation unit: loss, whether the system listens, and word error rate."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Literal

import torch
from fairseq2.metrics import MetricBag
from fairseq2.metrics.aggregation import Sum
from fairseq2.recipe.evaluator import EvalUnit
from typing_extensions import override

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.llms.api import DecodingConfig
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.scoring.scripts import has_spaces
from speechllm_plugin.scoring.wer import word_errors
from speechllm_plugin.tasks.metrics import LossMean, drop_absent, number


class SpeechLlmValidUnit(EvalUnit[SpeechTextBatch]):
    """Reports `nll_loss`, `other_audio_loss` (the loss when each clip gets its neighbour's audio: about equal until
    the system listens) and `wer` (of the decoded texts, after the `basic` normaliser)."""

    def __init__(self, model: SpeechLlm, *, name: str, decode: bool, decoding: DecodingConfig) -> None:
        self._model = model
        self._name = name
        self._decode = decode
        self._decoding = decoding

    @override
    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        metric_bag.add("nll_loss", LossMean())
        metric_bag.add("other_audio_loss", LossMean())
        for name in ("num_examples", "wer_errors", "wer_words"):
            metric_bag.add(name, Sum())

    @override
    @torch.inference_mode()
    def process_batch(self, batch: SpeechTextBatch, metric_bag: MetricBag) -> None:
        own, other, num_targets = self._model.swapped_loss(batch)
        texts = self._model.generate(batch, self._decoding)[0] if self._decode else []
        if not batch.counted:
            return
        metric_bag.get("nll_loss", LossMean).add(own, num_targets)
        if len(batch) > 1:
            metric_bag.get("other_audio_loss", LossMean).add(other, num_targets)
        metric_bag.get("num_examples", Sum).update(len(batch))
        if texts:
            unit: Literal["word", "char"] = "word" if has_spaces(batch.target_langs[0]) else "char"
            result = word_errors(batch.texts, texts, unit=unit)
            metric_bag.get("wer_errors", Sum).update(result.errors)
            metric_bag.get("wer_words", Sum).update(result.words)

    @override
    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        drop_absent(values, "other_audio_loss")
        errors, words = number(values.pop("wer_errors")), number(values.pop("wer_words"))
        if self._decode:
            values["wer"] = 100.0 * errors / max(words, 1.0)

    @property
    @override
    def name(self) -> str | None:
        return self._name
