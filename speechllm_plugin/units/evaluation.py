"""The evaluation and the generation unit."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from fairseq2.gang import Gang
from fairseq2.metrics import MetricBag
from fairseq2.metrics.aggregation import Sum
from fairseq2.recipe.evaluator import EvalUnit
from fairseq2.recipe.generator import GeneratorUnit
from typing_extensions import override

from speechllm_plugin.datasets.reader import SpeechTextReader, TrainerBatch
from speechllm_plugin.files.tsv import write_table
from speechllm_plugin.log import log
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.scoring.normalizers import NormalizerName
from speechllm_plugin.scoring.report import score, write_hypotheses, write_scores
from speechllm_plugin.scoring.table import format_table
from speechllm_plugin.tensors.modes import without_gradients
from speechllm_plugin.units.hypotheses import DecodedSplit, Decoder
from speechllm_plugin.units.metrics import LossMean, drop_absent, headline, number

HYPOTHESES = "hypotheses.tsv"
SCORES = "scores.json"
NO_SPEECH = "no_speech.tsv"


class ScoringUnit(EvalUnit[TrainerBatch]):
    """Decodes a split and scores it."""

    def __init__(
        self,
        name: str,
        decoder: Decoder,
        reader: SpeechTextReader,
        gang: Gang,
        output_dir: Path,
        *,
        normalizer: NormalizerName,
        beyond_limit: float,
        provenance: Callable[[], dict[str, Any]],
    ) -> None:
        """:param beyond_limit: share of the references that exceed the length limit of hypotheses."""
        self._name = name
        self._decoder = decoder
        self._reader = reader
        self._gang = gang
        self._output_dir = output_dir
        self._normalizer = normalizer
        self._beyond_limit = beyond_limit
        self._provenance = provenance
        self._scores: dict[str, Any] = {}

    @override
    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        metric_bag.add("num_examples", Sum())

    @override
    @without_gradients()
    def process_batch(self, batch: TrainerBatch, metric_bag: MetricBag) -> None:
        self._decoder.decode(batch)
        if batch.counted:
            metric_bag.get("num_examples", Sum).update(len(batch))

    @override
    def finalize(self, metric_bag: MetricBag) -> None:
        decoded = write_decoded(self._decoder, self._reader, self._gang, self._output_dir)
        self._scores = {
            **score(decoded.ordered(), self._normalizer),
            **counts(decoded),
            "references_beyond_limit": round(self._beyond_limit, 4),
        }
        if self._gang.rank == 0:
            log.info("{}, {} utterances:\n{}", self._name, len(decoded.rows), format_table(decoded.ordered(), 5))

    @override
    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        # Called on one process only, after the metrics of all processes were joined.
        values.update(headline(self._scores))
        values["rtf"] = self._scores["rtf"]
        write_scores(self._output_dir / SCORES, self._scores, self._provenance())
        log.info("{} written to {}.", SCORES, self._output_dir)

    @property
    @override
    def name(self) -> str | None:
        return self._name


class SpeechLlmEvalUnit(ScoringUnit):
    """Also reports the loss with each clip's own and with its neighbour's audio."""

    def __init__(
        self,
        name: str,
        model: SpeechLlm,
        decoder: Decoder,
        reader: SpeechTextReader,
        gang: Gang,
        output_dir: Path,
        *,
        normalizer: NormalizerName,
        beyond_limit: float,
        provenance: Callable[[], dict[str, Any]],
    ) -> None:
        super().__init__(
            name, decoder, reader, gang, output_dir,
            normalizer=normalizer, beyond_limit=beyond_limit, provenance=provenance,
        )  # fmt: skip
        self._model = model

    @override
    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        metric_bag.add("nll_loss", LossMean())
        metric_bag.add("other_audio_loss", LossMean())
        super().prepare_metric_bag(metric_bag)

    @override
    @without_gradients()
    def process_batch(self, batch: TrainerBatch, metric_bag: MetricBag) -> None:
        own, other, targets = self._model.swapped_loss(batch)
        super().process_batch(batch, metric_bag)
        if not batch.counted:
            return
        metric_bag.get("nll_loss", LossMean).add(own.sum(), sum(targets))
        if len(batch) > 1:
            metric_bag.get("other_audio_loss", LossMean).add(other.sum(), sum(targets))

    @override
    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        drop_absent(values, "other_audio_loss")
        for name in ("nll_loss", "other_audio_loss"):
            if name in values:
                self._scores[name] = number(values[name])
        super().process_metric_values(values)


class SpeechLlmGeneratorUnit(GeneratorUnit[TrainerBatch]):
    """Decodes a split into a TSV; references may be absent."""

    def __init__(self, decoder: Decoder, reader: SpeechTextReader, gang: Gang, output_dir: Path) -> None:
        self._decoder = decoder
        self._reader = reader
        self._gang = gang
        self._output_dir = output_dir

    @override
    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        metric_bag.add("num_examples", Sum())

    @override
    def process_batch(self, batch: TrainerBatch, metric_bag: MetricBag) -> None:
        self._decoder.decode(batch)
        if batch.counted:
            metric_bag.get("num_examples", Sum).update(len(batch))

    @override
    def finalize(self, metric_bag: MetricBag) -> None:
        decoded = write_decoded(self._decoder, self._reader, self._gang, self._output_dir)
        if self._gang.rank == 0:
            log.info("{} hypotheses written to {}. {}", len(decoded.rows), self._output_dir / HYPOTHESES,
                     ", ".join(f"{name}: {value}" for name, value in counts(decoded).items()))


def write_decoded(decoder: Decoder, reader: SpeechTextReader, gang: Gang, output_dir: Path) -> DecodedSplit:
    decoder.decoded.skipped = dict(reader.skipped)
    decoded = decoder.gathered(gang)
    if gang.rank == 0:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_hypotheses(output_dir / HYPOTHESES, decoded.ordered())
        if decoded.no_speech:
            listed = ((decoded.rows[place].id, reason) for place, reason in sorted(decoded.no_speech.items()))
            write_table(output_dir / NO_SPEECH, ("id", "reason"), listed)
            log.info("{} texts were left empty by the guard against silence; {} lists them.",
                     len(decoded.no_speech), output_dir / NO_SPEECH)
    return decoded


def counts(decoded: DecodedSplit) -> dict[str, Any]:
    return {
        "rtf": round(decoded.rtf, 4),
        "speech_vectors_per_second": round(decoded.output_rate, 3),
        "cut_hypotheses": decoded.cut,
        "hypotheses_decoded_again": decoded.decoded_again,
        "no_speech_clips": len(decoded.no_speech),
        "skipped_clips": len(decoded.skipped),
    }
