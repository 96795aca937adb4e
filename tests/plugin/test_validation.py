"""The word error rate of validation: which rows it counts, and in which unit."""

from __future__ import annotations

import logging

import pytest
import torch
from fairseq2.metrics import MetricBag

from speechllm_plugin.datasets.batch import Clip, SpeechTextBatch
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.tasks.api import task_of_row
from speechllm_plugin.units.validation import ENDLESS, SpeechLlmValidUnit, recognition_errors


def batch(*rows: tuple[str, ...]) -> SpeechTextBatch:
    """:param rows: source language, target language, reference and, where stated, the task of each."""
    return SpeechTextBatch([
        Clip(
            id=str(number), row=number, task=task_of_row(source, target, *task), source_lang=source, target_lang=target,
            text=text, transcript=text, audio="", audio_key=str(number), seconds=1.0,
        )
        for number, (source, target, text, *task) in enumerate(rows)
    ])


ENGLISH, CHINESE, GERMAN = ("en", "en", "one two three"), ("zh", "", "一二三四"), ("en", "de", "eins zwei drei vier")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_each_transcription_counts_its_own_unit(order: tuple[int, ...]) -> None:
    """One of three words, two of four characters; a translation does not count."""
    rows, texts = (ENGLISH, CHINESE, GERMAN), ("one two four", "一二五六", "nichts davon")
    chosen = batch(*(rows[row] for row in order))
    assert recognition_errors(chosen, [texts[row] for row in order]) == (2, 1 + 2, 3 + 4)
    answer = ("en", "en", "four", "answer")
    assert recognition_errors(batch(answer), ["five"]) == (0, 0, 0)
    assert recognition_errors(batch(answer, ENGLISH), ["five", "one two"]) == (1, 1, 3)


def test_each_language_has_its_own_capitals() -> None:
    rows = batch(("tr", "tr", "ISPARTA"), ("en", "en", "ISPARTA"))
    assert recognition_errors(rows, ["ısparta", "isparta"]) == (2, 0, 2)


def test_translations_are_none() -> None:
    assert recognition_errors(batch(GERMAN), ["eins"]) == (0, 0, 0)


def test_a_system_that_does_not_end_its_answers_is_soon_left_alone(
    tiny_config: SpeechLlmConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit of one token ends every answer."""
    model = create_speech_llm(tiny_config).eval()
    unit = SpeechLlmValidUnit(
        model, name="dev", decode=True, decoding=DecodingConfig(extra_tokens=1, tokens_per_second=0)
    )
    rows = batch(*[ENGLISH] * 5)
    for clip in rows:
        clip.waveform = torch.randn(4000)
    for _ in range(2):  # each validation begins anew
        bag = MetricBag(torch.device("cpu"))
        unit.prepare_metric_bag(bag)
        for _ in range(4):
            unit.process_batch(rows, bag)
        with caplog.at_level(logging.INFO, logger="fairseq2"):
            unit.finalize(bag)
        values = {name: metric.compute() for name, metric in bag.metrics.items()}
        assert values["num_examples"] == 20
        assert values["wer_rows"] == -(-ENDLESS // 5) * 5
        assert "dev: 10 clips were not decoded, as the answers to 10 in a row did not end" in caplog.text
        caplog.clear()
