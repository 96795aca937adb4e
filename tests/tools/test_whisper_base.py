"""Whisper base as `speechllm miniature` makes it; skipped where `make grid` has not fetched its wheels."""

from __future__ import annotations

from pathlib import Path

import jiwer
import numpy as np
import pytest
import soxr

pytest.importorskip("espeakng_loader")

from speechllm_tools.demo.prepare import prepare_whisper_base
from speechllm_tools.demo.wheels import WHISPER_BASE
from speechllm_tools.speech.espeak import Espeak

WHEELS = Path(__file__).parents[2] / "demo" / "wheels"
pytestmark = pytest.mark.skipif(
    not all((WHEELS / package.filename).is_file() for package in WHISPER_BASE), reason="there are no wheels of it"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("base")
    prepare_whisper_base(root, WHEELS)
    return root / "models" / "whisper-base"


def test_it_is_whole_and_has_the_shape_of_its_name(folder: Path) -> None:
    from speechllm_plugin.encoders.whisper import WhisperConfig, create_whisper
    from speechllm_plugin.models.speech_llm.archs import check_part_arch

    config = WhisperConfig(path=str(folder))
    check_part_arch("encoder", "whisper_base", "whisper", config)
    encoder = create_whisper(config)
    assert encoder.dim == 512 and encoder.languages is None
    assert {file.name for file in folder.iterdir()} >= {"LICENSE", "config.json", "tokenizer.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("language", "voice", "text"),
    [
        ("en", "en-US", "today my mother is waiting for the train at the office"),
        ("de", "de", "heute wartet meine mutter im büro auf den zug"),
    ],
)
def test_it_hears_what_is_said(folder: Path, language: str, voice: str, text: str) -> None:
    from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

    from speechllm_plugin.scoring.normalizers import normalize_basic

    espeak = Espeak()
    speech = espeak.speak(text, voice=voice, words_per_minute=140, pitch=50).astype(np.float32) / 32768
    speech = soxr.resample(speech, espeak.sample_rate, 16000)
    model = WhisperForConditionalGeneration.from_pretrained(folder).float()
    mels = WhisperFeatureExtractor()(speech, sampling_rate=16000, return_tensors="pt").input_features
    tokens = model.generate(mels, language=language, task="transcribe", max_new_tokens=30)
    (heard,) = AutoTokenizer.from_pretrained(folder).batch_decode(tokens, skip_special_tokens=True)
    assert jiwer.wer(text, normalize_basic(heard, language)) < 0.5, heard
