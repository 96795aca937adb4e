"""A batch with texts of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.inference.reading import batch_of_files
from tests.plugin.tuning.models import TEXTS


@pytest.fixture
def batch(tiny_manifest: Path) -> SpeechTextBatch:
    batch = batch_of_files([tiny_manifest / f"train_{i}.{('wav', 'flac')[i % 2]}" for i in range(4)], "en", None)
    for clip, text in zip(batch, TEXTS, strict=True):
        clip.text = clip.transcript = text
    return batch
