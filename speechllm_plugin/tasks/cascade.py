"""Decodes with a cascade, and keeps what its first stage wrote."""

from __future__ import annotations

import time

import torch
from fairseq2.logging import log
from fairseq2.metrics import MetricBag
from typing_extensions import override

from speechllm_plugin.cascade import Cascade
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.tsv import write_table
from speechllm_plugin.llms.api import DecodingConfig, Generated
from speechllm_plugin.tasks.decoding import DecodedSplit, Decoder, gather
from speechllm_plugin.tasks.evaluation import ScoringUnit

TRANSCRIPTS = "transcripts.tsv"


class CascadeDecoder(Decoder):
    def __init__(self, cascade: Cascade, decoding: DecodingConfig) -> None:
        super().__init__(cascade, decoding)
        self._cascade = cascade
        self.transcripts = DecodedSplit()

    @override
    @torch.inference_mode()
    def decode(self, batch: SpeechTextBatch) -> None:
        start = time.perf_counter()
        transcripts = self._cascade.recognize(batch)
        recognized = time.perf_counter()
        texts, generated = self._cascade.answer(batch, transcripts, self._decoding)
        end = time.perf_counter()
        if batch.counted:
            self.transcripts.add(
                batch,
                [transcript.text for transcript in transcripts],
                [Generated([], transcript.cut) for transcript in transcripts],
                recognized - start,
            )
            self.decoded.add(batch, texts, generated, end - start)


class CascadeEvalUnit(ScoringUnit):
    """Also writes `transcripts.tsv` (id, transcript), and the recogniser's share of time and cuts."""

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
