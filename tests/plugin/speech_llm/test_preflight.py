"""Mistakes in a system are told before a weight is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

import speechllm_plugin.pretrained.weights
from speechllm_plugin.adapters.api import ADAPTERS
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.reading import batch_of_files
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.position_room import check_room_of_rows, vector_counter
from speechllm_plugin.models.speech_llm.preflight import also_checking
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig
from speechllm_plugin.prompts import PromptConfig

Change = Callable[[SpeechLlmConfig, Path], None]


class NamesOnly:
    """A file whose names can be read, and no weight."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._file: Any = safe_open(*args, **options)

    def keys(self) -> list[str]:
        return list(self._file.keys())


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speechllm_plugin.pretrained.weights, "safe_open", NamesOnly)


def adapter(name: str, **values: Any) -> Change:
    def change(config: SpeechLlmConfig, folder: Path) -> None:
        config.adapter = PartSection(name=name, config=values)

    return change


def prompt(**values: str) -> Change:
    def change(config: SpeechLlmConfig, folder: Path) -> None:
        config.prompt = PromptConfig(**values)  # type: ignore[arg-type]

    return change


def ctc(**values: Any) -> Change:
    def change(config: SpeechLlmConfig, folder: Path) -> None:
        (folder / "no.model").write_text("no model")
        config.ctc = CtcConfig(**{key: str(folder / value) if key == "vocabulary" else value
                                  for key, value in values.items()})

    return change


def tuning(**values: Any) -> Change:
    def change(config: SpeechLlmConfig, folder: Path) -> None:
        config.llm_tuning = TuningConfig(**values)

    return change


def llm_without(name: str) -> Change:
    """The LLM's directory less one file."""

    def change(config: SpeechLlmConfig, folder: Path) -> None:
        shutil.copytree(path_of(config.llm), folder / "llm", ignore=shutil.ignore_patterns(name))
        config.llm = PartSection(name="causal", config={"path": str(folder / "llm"), "dtype": "float32"})

    return change


def llm_of_lost_shards(config: SpeechLlmConfig, folder: Path) -> None:
    llm_without("model.safetensors")(config, folder)
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "llm" / "model.safetensors.index.json").write_text(json.dumps(index))


def llm_in_place_of_the_encoder(config: SpeechLlmConfig, folder: Path) -> None:
    config.encoder = PartSection(name="whisper", config={"path": path_of(config.llm)})


def path_of(section: PartSection) -> str:
    values: Any = section.config
    return str(values["path"])


MISTAKES: dict[str, tuple[Change, str]] = {
    "a size below one": (adapter("base", dim=0), "adapter.config.dim: found 0, expected"),
    "heads that do not divide": (adapter("base", dim=64, num_heads=5), "adapter.config.num_heads: found 5, expected"),
    "a window of the encoder's frames": (
        adapter("wlq_former", ctc_frames="after", num_queries=7), "adapter.config.num_queries: found 7, expected"
    ),
    "a key of another adapter": (adapter("mlp", num_layers=2), "adapter.config.num_layers: found an unknown key"),
    "two places for speech": (
        prompt(transcribe="<speech> is <speech>?"), "prompt.transcribe: found 2 times <speech>, expected"
    ),
    "a name that stands for nothing": (prompt(translate="to {tongue}"), "prompt.translate: found placeholder {tongue}"),
    "no vocabulary": (
        ctc(weight=0.1, classifier="sentencepiece", vocabulary="lost.model"), "ctc.vocabulary: no file"
    ),
    "a vocabulary that is none": (
        ctc(weight=0.1, classifier="sentencepiece", vocabulary="no.model"), "ctc.vocabulary: "
    ),
    "a weight below zero": (ctc(weight=-1.0), "ctc.weight: found -1.0, expected"),
    "a rank below zero": (tuning(lora_rank=-1), "llm_tuning.lora_rank: found -1, expected at least 0"),
    "no chat template": (llm_without("chat_template.jinja"), "prompt: the LLM's tokenizer has no chat template"),
    "no tokenizer": (llm_without("tokenizer*"), "llm.config.path: cannot load"),
    "no weights": (llm_without("model.safetensors"), "llm.config.path: cannot load"),
    "a shard that is lost": (llm_of_lost_shards, "llm.config.path: cannot load"),
    "another kind of model": (llm_in_place_of_the_encoder, "encoder.config.path: "),
}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_before_a_weight_is_read(
    mistake: str, tiny_config: SpeechLlmConfig, tmp_path: Path
) -> None:
    change, expected = MISTAKES[mistake]
    change(tiny_config, tmp_path)
    with pytest.raises(UserError) as caught:
        create_speech_llm(tiny_config)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_weights")
def test_what_is_right_reads_weights(tiny_config: SpeechLlmConfig) -> None:
    with pytest.raises(UserError, match="get_slice"):
        create_speech_llm(tiny_config)


@pytest.mark.parametrize("name", ADAPTERS.names())
def test_the_check_draws_no_numbers(name: str, tiny_config: SpeechLlmConfig) -> None:
    """A run that passes the check is the run that there was without it."""
    import torch

    from speechllm_plugin.models.speech_llm.preflight import check_before_loading

    tiny_config.adapter = PartSection(name=name)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    check_before_loading(tiny_config)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("no_weights")
def test_a_row_without_room_is_told_before_a_weight_is_read(
    tiny_config: SpeechLlmConfig, tiny_llm: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    tokenizer.save_pretrained(tmp_path / "gpt2")
    hf_config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=4, n_positions=128)
    AutoModelForCausalLM.from_config(hf_config).save_pretrained(tmp_path / "gpt2")
    tiny_config.llm = PartSection(name="causal", config={"path": str(tmp_path / "gpt2"), "dtype": "float32"})
    manifest = tmp_path / "all.tsv"
    manifest.write_text("id\taudio\tn_frames\ttgt_text\nshort\ts.wav\t98\tplay\nlong\tl.wav\t1498\tplay\n")
    rows = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(manifest)})).read("all")
    with (
        also_checking(lambda outline: check_room_of_rows(outline, rows, longest=None)),
        pytest.raises(UserError) as caught,
    ):
        create_speech_llm(tiny_config)
    assert str(caught.value).startswith(f"{manifest}, line 3, id long: found 150 vectors of speech, which make ")
    # Longer clips are left to the rules for lengths.
    with (
        also_checking(lambda outline: check_room_of_rows(outline, rows, longest=14.0)),
        pytest.raises(UserError, match="get_slice"),
    ):
        create_speech_llm(tiny_config)


@pytest.mark.parametrize(("name", "fixed"), [("mlp", True), ("base", True), ("wlq_former", True), ("cif", False)])
def test_vectors_are_counted_where_the_rate_is_fixed(name: str, fixed: bool, tiny_config: SpeechLlmConfig) -> None:
    tiny_config.adapter = PartSection(name=name)
    counted: list[int | None] = []
    with also_checking(lambda outline: counted.append(vector_counter(outline)(2.0))):
        model = create_speech_llm(tiny_config).eval()
    batch = batch_of_files([np.zeros(32000, dtype=np.float32)], "en", None)
    assert counted == [int(model.listen(batch).lengths) if fixed else None]
