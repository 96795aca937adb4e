"""The validation unit: loss, whether the system listens, and word error rate."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

import torch
from fairseq2.metrics import MetricBag
from fairseq2.metrics.aggregation import Sum
from fairseq2.recipe.evaluator import EvalUnit
from typing_extensions import override

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.reader import TrainerBatch
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.log import log
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.scoring.wer import unit_of, word_errors
from speechllm_plugin.units.metrics import LossMean, drop_absent, number

ENDLESS = 8
"""Number of answers in a row without an end after which a validation stops decoding."""


class SpeechLlmValidUnit(EvalUnit[TrainerBatch]):
    """Reports `nll_loss`, `other_audio_loss` (the loss when each clip gets its neighbour's audio: about equal until
    the system listens) and `wer` (of the decoded transcriptions, after the `basic` normaliser; each language counts
    its own unit, as in the score file; absent where a split holds none).

    It computes without autocast, as evaluation and transcription do: the best checkpoint here is the best there."""

    def __init__(self, model: SpeechLlm, *, name: str, decode: bool, decoding: DecodingConfig) -> None:
        self._model = model
        self._name = name
        self._decode = decode
        self._endless = 0
        """Hypotheses in a row that the length limit ended."""
        self._left_out = 0
        """Clips that were not decoded."""
        self._decoding = decoding

    @override
    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        metric_bag.add("nll_loss", LossMean())
        metric_bag.add("other_audio_loss", LossMean())
        for name in ("num_examples", "wer_rows", "wer_errors", "wer_words"):
            metric_bag.add(name, Sum())

    @override
    @torch.inference_mode()
    def process_batch(self, batch: TrainerBatch, metric_bag: MetricBag) -> None:
        with torch.autocast(next(self._model.parameters()).device.type, enabled=False):
            own, other, num_targets = self._model.swapped_loss(batch)
            texts = self._hypotheses(batch) if self._decode else []
        if not batch.counted:
            return
        metric_bag.get("nll_loss", LossMean).add(own, num_targets)
        if len(batch) > 1:
            metric_bag.get("other_audio_loss", LossMean).add(other, num_targets)
        metric_bag.get("num_examples", Sum).update(len(batch))
        if texts:
            for name, count in zip(("rows", "errors", "words"), recognition_errors(batch, texts), strict=True):
                metric_bag.get(f"wer_{name}", Sum).update(count)

    def _hypotheses(self, batch: SpeechTextBatch) -> list[str]:
        """Nothing once `ENDLESS` answers in a row did not end: a system that is not trained yet runs to the limit with
        every clip, and minutes would tell no more than seconds."""
        if self._endless >= ENDLESS:
            self._left_out += len(batch) * batch.counted
            return []
        texts, generated = self._model.generate(batch, self._decoding)
        for hypothesis in generated:
            self._endless = self._endless + 1 if hypothesis.cut else 0
        return texts

    @override
    def finalize(self, metric_bag: MetricBag) -> None:
        if self._left_out:
            log.info(
                "{}: {} clips were not decoded, as the answers to {} in a row did not end; the word error rate is that "
                "of the others.", self._name, self._left_out, self._endless,
            )
        self._endless = self._left_out = 0

    @override
    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        drop_absent(values, "other_audio_loss")
        rows, errors, words = (number(values.pop(f"wer_{name}")) for name in ("rows", "errors", "words"))
        if rows > 0:
            values["wer"] = 100.0 * errors / max(words, 1.0)

    @property
    @override
    def name(self) -> str | None:
        return self._name


def recognition_errors(batch: SpeechTextBatch, texts: Sequence[str]) -> tuple[int, int, int]:
    """How many rows are transcriptions, and their errors and reference words: characters in languages without spaces.

    :param texts: what was decoded, one for each row.
    """
    rows: dict[str, list[int]] = {}
    for row, clip in enumerate(batch):
        if clip.task.scored_by == "wer":
            rows.setdefault(clip.source_lang, []).append(row)
    results = [
        word_errors(
            [batch.clips[row].text for row in own], [texts[row] for row in own],
            unit=unit_of(language), language=language,
        )
        for language, own in rows.items()
    ]
    return sum(map(len, rows.values())), sum(r.errors for r in results), sum(r.words for r in results)
