"""Whisper and SeamlessM4T v2 as recognisers: transformers' own texts, the same for a clip alone and in a batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    SeamlessM4TFeatureExtractor,
    SeamlessM4Tv2ForSpeechToText,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
    pipeline,
)

from speechllm_plugin.cascade.recognizers.api import RECOGNIZERS, Recognized
from speechllm_plugin.cascade.recognizers.seamless_m4t_v2 import SeamlessM4Tv2Recognizer
from speechllm_plugin.cascade.recognizers.whisper import WhisperRecognizer
from speechllm_plugin.encoders.seamless_m4t_v2 import SeamlessM4Tv2Config, create_seamless_m4t_v2
from speechllm_plugin.errors import UserError
from tests.plugin.recognizer_checkpoints import write_seamless, write_whisper

RATE = 16000


@pytest.fixture(scope="module")
def clips() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    waves = []
    for number, seconds in enumerate((0.4, 1.7, 0.9)):
        times = torch.arange(int(RATE * seconds)) / RATE
        tone = torch.sin(2 * torch.pi * (200 + 400 * number) * times)
        waves.append(0.2 * tone + 0.02 * torch.randn(len(times), generator=generator))
    return waves


@pytest.fixture(scope="module", params=[False, True], ids=["english", "multilingual"])
def whisper(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("whisper"), multilingual=request.param)


def create_whisper(path: Path) -> WhisperRecognizer:
    part = RECOGNIZERS.get("whisper")
    return part.build(RECOGNIZERS.config("whisper", {"path": str(path), "dtype": "float32"})).eval()  # type: ignore


def is_multilingual(path: Path) -> bool:
    return bool(GenerationConfig.from_pretrained(path).is_multilingual)


def test_whisper_says_what_transformers_pipeline_says(whisper: Path, clips: list[Tensor]) -> None:
    recognizer = create_whisper(whisper)
    told = {"language": "de", "task": "transcribe"} if is_multilingual(whisper) else {}
    reference = pipeline(
        "automatic-speech-recognition",
        model=WhisperForConditionalGeneration.from_pretrained(whisper, dtype=torch.float32).eval(),
        tokenizer=WhisperTokenizerFast.from_pretrained(whisper),
        feature_extractor=WhisperFeatureExtractor(feature_size=80),
        generate_kwargs={**told, "num_beams": 1},
        device="cpu",
    )
    expected = [reference({"raw": clip.numpy(), "sampling_rate": RATE})["text"].strip() for clip in clips]
    found = recognizer.recognize(clips, ["de" if told else "en"] * 3)
    assert [one.text for one in found] == expected
    assert len(set(expected)) == 3 and all(expected)


def test_whisper_in_a_batch_and_alone(whisper: Path, clips: list[Tensor]) -> None:
    recognizer = create_whisper(whisper)
    languages = ["en", "de", "English"] if is_multilingual(whisper) else ["en", "en-GB", "English"]
    together = recognizer.recognize(clips, languages)
    alone = [recognizer.recognize([clip], [name])[0] for clip, name in zip(clips, languages, strict=True)]
    assert together == alone


def test_whisper_is_told_each_clips_language(tmp_path: Path, clips: list[Tensor]) -> None:
    recognizer = create_whisper(write_whisper(tmp_path, multilingual=True))
    english, german = (recognizer.recognize(clips, [code] * 3) for code in ("en", "de"))
    assert english != german
    assert recognizer.recognize(clips, ["en", "de", "en"]) == [english[0], german[1], english[2]]


def test_a_text_at_the_models_limit_is_cut(tmp_path: Path, clips: list[Tensor]) -> None:
    path = write_whisper(tmp_path, multilingual=False)
    config = GenerationConfig.from_pretrained(path)
    vocabulary = len(WhisperTokenizerFast.from_pretrained(path))
    config.suppress_tokens = [config.eos_token_id]
    config.save_pretrained(path)
    assert all(one.cut for one in create_whisper(path).recognize(clips, ["en"] * 3))
    config.suppress_tokens = [token for token in range(vocabulary) if token != config.eos_token_id]
    config.begin_suppress_tokens = None
    config.save_pretrained(path)
    assert create_whisper(path).recognize(clips, ["en"] * 3) == 3 * [Recognized("", cut=False)]


def test_whisper_does_not_know_a_language(whisper: Path, clips: list[Tensor]) -> None:
    recognizer = create_whisper(whisper)
    message = "does not know the language" if is_multilingual(whisper) else "knows English only, found speech in"
    with pytest.raises(UserError, match=rf"^recognizer\.config\.path: .*{message} 'fr'"):
        recognizer.recognize(clips[:1], ["fr"])


def test_recognisers_have_codes_of_their_own(tmp_path: Path, seamless: Path) -> None:
    recognizer = create_whisper(write_whisper(tmp_path, multilingual=True))
    assert [recognizer.code(name) for name in ("EN", "eng", "German", "de_AT")] == ["en", "en", "de", "de"]
    recognizer.model.generation_config.lang_to_id = {"<|jw|>": 1, "<|no|>": 2, "<|tl|>": 3}
    assert [recognizer.code(name) for name in ("jav", "nb", "fil_ph")] == ["jw", "no", "tl"]
    assert [create_seamless(seamless).code(name) for name in ("en", "deu", "de-CH")] == ["eng", "deu", "deu"]


def test_a_checkpoint_that_does_not_tell_its_languages(tmp_path: Path) -> None:
    path = write_whisper(tmp_path, multilingual=True)
    GenerationConfig(eos_token_id=0).save_pretrained(path)
    with pytest.raises(UserError, match="found no `is_multilingual` in the generation_config.json"):
        create_whisper(path)


@pytest.fixture(scope="module")
def seamless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_seamless(tmp_path_factory.mktemp("seamless"))


def create_seamless(path: Path) -> SeamlessM4Tv2Recognizer:
    part = RECOGNIZERS.get("seamless_m4t_v2")
    return part.build(RECOGNIZERS.config(part.name, {"path": str(path), "dtype": "float32"})).eval()  # type: ignore


def test_seamless_says_what_transformers_says(seamless: Path, clips: list[Tensor]) -> None:
    recognizer = create_seamless(seamless)
    model = SeamlessM4Tv2ForSpeechToText.from_pretrained(seamless, dtype=torch.float32).eval()
    texts = {}
    for language, code in (("en", "eng"), ("de", "deu")):
        expected = []
        for clip in clips:
            features = SeamlessM4TFeatureExtractor()(clip.numpy(), sampling_rate=RATE, return_tensors="pt")
            row = model.generate(**features, tgt_lang=code, do_sample=False, num_beams=1)[0]
            expected.append(recognizer.tokenizer.decode(row, skip_special_tokens=True).strip())
        texts[language] = [one.text for one in recognizer.recognize(clips, [language] * 3)]
        assert texts[language] == expected and all(expected)
        assert len(set(expected)) == 3
    assert texts["en"] != texts["de"]
    mixed = recognizer.recognize(clips, ["en", "de", "en"])
    assert all(one.cut for one in mixed)  # this one never ends
    assert [one.text for one in mixed] == [texts["en"][0], texts["de"][1], texts["en"][2]]


def test_seamless_does_not_know_a_language(seamless: Path, clips: list[Tensor]) -> None:
    for language in ("fr", "br"):
        with pytest.raises(UserError, match=f"does not know the language '{language}'"):
            create_seamless(seamless).recognize(clips[:1], [language])


def keep(path: Path, folder: Path, start: tuple[str, ...]) -> Path:
    """A copy of a checkpoint whose index names all weights, and whose one shard holds those that start so."""
    shutil.copytree(path, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    kept = {name: weight for name, weight in weights.items() if name.startswith(start)}
    assert len(kept) < len(weights)
    save_file(kept, folder / "kept.safetensors", {"format": "pt"})
    files = {name: "kept.safetensors" if name in kept else "never-read.safetensors" for name in weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


def test_seamless_reads_what_it_runs(seamless: Path, clips: list[Tensor], tmp_path: Path) -> None:
    """Of the checkpoint neither text encoder, units nor vocoder: two thirds of the published one."""
    part = keep(seamless, tmp_path / "part", ("shared.", "speech_encoder.", "text_decoder.", "lm_head."))
    expected = create_seamless(seamless).recognize(clips, ["en"] * 3)
    assert create_seamless(part).recognize(clips, ["en"] * 3) == expected


def test_seamless_without_a_weight_that_it_runs(seamless: Path, tmp_path: Path) -> None:
    part = keep(seamless, tmp_path / "part", ("shared.", "speech_encoder."))
    with pytest.raises(UserError, match="found no never-read.safetensors, which its index names; download it again$"):
        create_seamless(part)


def test_seamless_saved_as_speech_to_text(seamless: Path, clips: list[Tensor], tmp_path: Path) -> None:
    """A fine-tuned one holds the two halves alone: the encoder's names are the same."""
    SeamlessM4Tv2ForSpeechToText.from_pretrained(seamless).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(seamless).save_pretrained(tmp_path)
    assert not any(name.startswith("t2u_model.") for name in load_file(tmp_path / "model.safetensors"))
    expected = create_seamless(seamless).recognize(clips, ["de"] * 3)
    assert create_seamless(tmp_path).recognize(clips, ["de"] * 3) == expected
    whole, alone = (
        create_seamless_m4t_v2(SeamlessM4Tv2Config(path=str(path), dtype="float32")).state_dict()
        for path in (seamless, tmp_path)
    )
    assert whole.keys() == alone.keys() and all(torch.equal(alone[name], weight) for name, weight in whole.items())
