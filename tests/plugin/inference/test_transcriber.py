"""A system as people use it: files or samples in, texts out."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch

from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.transcriber import Transcriber
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.config import CtcConfig, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm


@pytest.fixture
def system(tiny_config: SpeechLlmConfig) -> Transcriber:
    tiny_config.adapter.config = {"stack": 2, "hidden_dim": 48}
    tiny_config.ctc = CtcConfig(weight=0.3, classifier="linear")
    torch.manual_seed(0)
    return Transcriber(create_speech_llm(tiny_config).eval(), DecodingConfig(tokens_per_second=2.0, extra_tokens=4))


def test_transcribe(system: Transcriber, tiny_manifest: Path, tmp_path: Path) -> None:
    files = [tiny_manifest / f"test_{i}.{suffix}" for i, suffix in enumerate(("wav", "flac", "wav"))]
    texts = system.transcribe(files)
    assert texts == [system.transcribe([file])[0] for file in files]
    assert system.transcribe(files, target_lang="de") != texts
    soundfile.write(tmp_path / "long.wav", torch.zeros(31 * 16000).numpy(), 16000)
    with pytest.raises(UserError, match=r"long\.wav: the audio lasts 31\.00 s, expected at most 30 s"):
        system.transcribe([files[0], tmp_path / "long.wav"])
    with pytest.raises(UserError, match="found no such file"):
        system.transcribe([tmp_path / "nothing.wav"])
    with pytest.raises(UserError, match="language: found 'xx'"):
        system.transcribe(files, source_lang="xx")


def test_timed_texts_are_the_texts(system: Transcriber, tiny_manifest: Path) -> None:
    files = [tiny_manifest / "test_0.wav", tiny_manifest / "test_1.flac"]
    timed = system.transcribe_timed(files)
    assert [one.text for one in timed] == system.transcribe(files) and system.tells_times
    assert all(0 <= word.start <= word.end for one in timed for word in one.words)


def test_the_run_s_decoding_is_the_default(system: Transcriber, tiny_manifest: Path) -> None:
    """A length limit that is not given is the run's, too."""
    clip = tiny_manifest / "test_0.wav"
    count = system.model.llm.tokenizer
    (text,) = system.transcribe(clip)
    assert system.transcribe(clip, decoding=DecodingConfig(extra_tokens=4)) == [text]
    (longer,) = system.transcribe(clip, decoding=DecodingConfig(extra_tokens=30))
    assert len(count(longer)["input_ids"]) > len(count(text)["input_ids"])
    assert system.answering(7).limit(3600.0) == 7


def test_what_scripts_ask_of_model_and_system(system: Transcriber, tiny_manifest: Path) -> None:
    """`transcribe` of a model that was never saved, and the model's own parts by way of a loaded system."""
    clip = tiny_manifest / "test_0.wav"
    assert system.model.transcribe(clip, decoding=system.decoding) == system.transcribe(clip)
    assert system.llm is system.model.llm
    with pytest.raises(AttributeError, match="nothing"):
        system.nothing  # noqa: B018
