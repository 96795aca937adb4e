"""Decodes a split and gathers the hypotheses of all processes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from fairseq2.gang import Gang

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.scoring.report import Hypothesis
from speechllm_plugin.tensors.modes import without_gradients
from speechllm_plugin.units.kept import KeptHypotheses


@dataclass
class DecodedSplit:
    """The hypotheses of one process, or after `gathered` of all processes."""

    rows: dict[int, Hypothesis] = field(default_factory=dict)
    """Hypotheses by their place in the split."""
    cut: int = 0
    """Hypotheses that the length limit ended."""
    decoded_again: int = 0
    """Hypotheses that repeated themselves and were decoded again; see `DecodingConfig.max_compression_ratio`."""
    no_speech: dict[int, str] = field(default_factory=dict)
    """Reasons why the guard against silence emptied texts, by place in the split."""
    speech_vectors: int = 0
    """Speech embeddings that the LLM read."""
    audio_seconds: float = 0.0
    decoding_seconds: float = 0.0
    """Wall time from audio to text, encoder included."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Reasons why clips could not be read, by id."""

    def add(
        self, batch: SpeechTextBatch, texts: Sequence[str], generated: Sequence[Generated], seconds: float
    ) -> None:
        """:param seconds: decoding time of the batch."""
        self.decoding_seconds += seconds
        self.audio_seconds += sum(batch.all_seconds)
        self.cut += sum(row.cut for row in generated)
        self.speech_vectors += sum(row.speech_vectors for row in generated)
        self.decoded_again += sum(row.decoded_again for row in generated)
        rows = list(zip(batch, generated, texts, strict=True))
        self.no_speech.update({clip.row: row.no_speech for clip, row, _ in rows if row.no_speech})
        for clip, _, text in rows:
            self.rows[clip.row] = Hypothesis(
                id=clip.id,
                reference=clip.text,
                hypothesis=text,
                source=clip.audio,
                duration=clip.seconds,
                src_lang=clip.source_lang,
                tgt_lang=clip.target_lang,
                task=clip.task.name,
                transcript=clip.transcript,
                references=clip.references,
            )

    def ordered(self) -> list[Hypothesis]:
        return [self.rows[place] for place in sorted(self.rows)]

    @property
    def output_rate(self) -> float:
        """Embeddings per second of audio (Hz), as measured: table I of arXiv 2409.17044."""
        return self.speech_vectors / self.audio_seconds if self.audio_seconds else 0.0

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of work per second of audio; below 1 is faster than speech."""
        return self.decoding_seconds / self.audio_seconds if self.audio_seconds else 0.0


class Generates(Protocol):
    def generate(self, batch: SpeechTextBatch, config: DecodingConfig) -> tuple[list[str], list[Generated]]: ...

    def wait_for_others(self) -> None: ...


class Decoder:
    def __init__(self, model: Generates, decoding: DecodingConfig, kept: KeptHypotheses | None = None) -> None:
        """:param kept: gives hypotheses from before, and keeps new ones."""
        self._model = model
        self._decoding = decoding
        self._kept = kept
        self.decoded = DecodedSplit()

    @without_gradients()
    def decode(self, batch: SpeechTextBatch) -> None:
        results = self._results(batch)
        self._model.wait_for_others()
        if batch.counted:
            self._add(batch, results)

    def _add(self, batch: SpeechTextBatch, results: Mapping[str, Any]) -> None:
        generated = [Generated(**values) for values in results["generated"]]
        self.decoded.add(batch, results["texts"], generated, results["seconds"])

    def _results(self, batch: SpeechTextBatch) -> dict[str, Any]:
        """The results of `_decode`, or those that were kept."""
        if self._kept is not None and (results := self._kept.find(batch)) is not None:
            return results
        results = self._decode(batch)
        if self._kept is not None:
            self._kept.add(batch, results)
        return results

    def _decode(self, batch: SpeechTextBatch) -> dict[str, Any]:
        """Texts, the values of each hypothesis, and the wall time, as plain values for JSON."""
        start = time.perf_counter()
        texts, generated = self._model.generate(batch, self._decoding)
        seconds = time.perf_counter() - start
        return {"texts": texts, "generated": [vars(row) for row in generated], "seconds": seconds}

    def gathered(self, gang: Gang) -> DecodedSplit:
        """The hypotheses of all processes, on each process."""
        return gather(self.decoded, gang)


def gather(decoded: DecodedSplit, gang: Gang) -> DecodedSplit:
    if gang.size == 1:
        return decoded
    parts: list[DecodedSplit | None] = [None] * gang.size
    torch.distributed.all_gather_object(parts, decoded, group=gang.as_process_group())
    return _merge([part for part in parts if part is not None])


def _merge(parts: Sequence[DecodedSplit]) -> DecodedSplit:
    merged = DecodedSplit()
    for part in parts:
        merged.rows.update(part.rows)
        merged.skipped.update(part.skipped)
        merged.no_speech.update(part.no_speech)
        merged.cut += part.cut
        merged.decoded_again += part.decoded_again
        merged.speech_vectors += part.speech_vectors
        merged.audio_seconds += part.audio_seconds
        # Processes work in parallel, so that the split takes as long as the slowest one.
        merged.decoding_seconds = max(merged.decoding_seconds, part.decoding_seconds)
    return merged
