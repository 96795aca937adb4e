"""Decodes with a cascade, and keeps the transcripts of its first stage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fairseq2.metrics import MetricBag
from typing_extensions import override

from speechllm_plugin.cascade.model import Cascade
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.files.tsv import write_table
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.log import log
from speechllm_plugin.units.evaluation import ScoringUnit
from speechllm_plugin.units.hypotheses import DecodedSplit, Decoder, gather
from speechllm_plugin.units.kept import KeptHypotheses

TRANSCRIPTS = "transcripts.tsv"


class CascadeDecoder(Decoder):
    def __init__(self, cascade: Cascade, decoding: DecodingConfig, kept: KeptHypotheses | None = None) -> None:
        super().__init__(cascade, decoding, kept)
        self._cascade = cascade
        self.transcripts = DecodedSplit()

    @override
    def _add(self, batch: SpeechTextBatch, results: Mapping[str, Any]) -> None:
        super()._add(batch, results)
        cut = [Generated([], cut) for cut in results["cut_transcripts"]]
        self.transcripts.add(batch, results["transcripts"], cut, results["recognizer_seconds"])

    @override
    def _decode(self, batch: SpeechTextBatch) -> dict[str, Any]:
        start = time.perf_counter()
        transcripts = self._cascade.recognize(batch)
        recognized = time.perf_counter()
        texts, generated = self._cascade.answer(batch, transcripts, self._decoding)
        return {
            "texts": texts,
            "generated": [vars(row) for row in generated],
            "seconds": time.perf_counter() - start,
            "transcripts": [transcript.text for transcript in transcripts],
            "cut_transcripts": [transcript.cut for transcript in transcripts],
            "recognizer_seconds": recognized - start,
        }


class CascadeEvalUnit(ScoringUnit):
    """Also writes `transcripts.tsv` (id, transcript), and the recogniser's own time and number of cut transcripts."""

    _decoder: CascadeDecoder

    @override
    def finalize(self, metric_bag: MetricBag) -> None:
        super().finalize(metric_bag)
        transcripts = gather(self._decoder.transcripts, self._gang)
        self._scores["recognizer"] = {"rtf": round(transcripts.rtf, 4), "cut_transcripts": transcripts.cut}
        if self._gang.rank == 0:
            rows = ((row.id, row.hypothesis) for row in transcripts.ordered())
            write_table(self._output_dir / TRANSCRIPTS, ("id", "transcript"), rows)
            log.info("{} written to {}.", TRANSCRIPTS, self._output_dir)
