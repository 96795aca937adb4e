"""Validation: what it reports of each task, and when it stops decoding."""

from __future__ import annotations

import logging

import pytest
import torch
from fairseq2.gang import FakeGang
from fairseq2.metrics import MetricBag

from speechllm_plugin.datasets.batch import Clip, SpeechTextBatch
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.tasks.api import task_of_row
from speechllm_plugin.units.validation import SpeechLlmValidUnit


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


def test_a_system_that_does_not_end_its_answers_is_soon_left_alone(
    tiny_config: SpeechLlmConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit of one token ends every answer."""
    model = create_speech_llm(tiny_config).eval()
    unit = SpeechLlmValidUnit(
        model,
        name="dev",
        tasks=["transcribe"],
        gang=FakeGang(device=torch.device("cpu")),
        decode=True,
        decoding=DecodingConfig(extra_tokens=1, tokens_per_second=0)
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
        assert bag.metrics["num_examples"].compute() == 20
        values: dict[str, object] = {}
        unit.process_metric_values(values)
        assert set(values) == {"wer"}
        assert "dev: 10 clips were not decoded, as the answers to 10 in a row did not end" in caplog.text
        caplog.clear()
