"""Tuning that cannot be: one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from speechllm_plugin.encoders.whisper import WhisperConfig, create_whisper
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.tuning import TunedWeights
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig
from speechllm_plugin.pretrained import freeze
from tests.plugin.tuning.models import ENCODERS, LORA, create


@pytest.mark.parametrize(
    ("part", "tuning", "message"),
    [
        ("llm", {"lora_rank": 2, "lora_targets": ["*.q_proj", "*.query"]},
         "llm_tuning.lora_targets: '*.query' matches no linear layer; expected a pattern of names such as 'model."),
        ("llm", {"unfreeze": ["model.layers.9.*"]},
         "llm_tuning.unfreeze: 'model.layers.9.*' matches no weight; expected a pattern of names such as 'model."),
        ("encoder", {"unfreeze": ["encoder.layers.2.*"]},
         "encoder_tuning.unfreeze: 'encoder.layers.2.*' matches no weight; expected a pattern of names such as 'enc"),
    ],
)
def test_a_pattern_without_a_match(
    tiny_config: SpeechLlmConfig, part: str, tuning: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        create(tiny_config, {part: tuning})
    assert str(caught.value).startswith(message)


def test_weights_that_would_lose_updates(tiny_config: SpeechLlmConfig) -> None:
    tiny_config.llm.config["dtype"] = "bfloat16"  # type: ignore[index]
    with pytest.raises(UserError) as caught:
        create(tiny_config, {"llm": {"unfreeze": ["*.layers.1.*norm*"]}})
    assert str(caught.value) == (
        "llm_tuning.unfreeze: found 'model.model.layers.1.input_layernorm.weight', which is bfloat16, expected float32 "
        "(the part's config.dtype, without quantization): smaller types lose small updates"
    )


def test_updates_that_would_never_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lora_targets: found '.*_proj', a layer that WavLM's attention does not run"):
        TunedWeights(ENCODERS["wavlm"](tmp_path), TuningConfig(lora_rank=2), "encoder_tuning")


def test_an_attention_without_known_names(tiny_whisper: Path) -> None:
    encoder = freeze(create_whisper(WhisperConfig(path=str(tiny_whisper), dtype="float32")))
    for layer in encoder.encoder.layers:
        layer.self_attn = nn.Identity()
    with pytest.raises(UserError, match=r"^encoder_tuning\.lora_targets: found null, .* such as 'encoder\.lay"):
        TunedWeights(encoder, TuningConfig(lora_rank=2), "encoder_tuning")


def test_without_peft(tiny_config: SpeechLlmConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"^llm_tuning\.lora_rank: found 4, which needs peft, .*: pip install peft$"):
        create(tiny_config, {"llm": LORA})
    create(tiny_config, {"llm": {"unfreeze": ["*norm*"]}})


@pytest.mark.parametrize(
    ("values", "words"),
    [({"lora_rank": -1}, "lora_rank"), ({"lora_alpha": 0}, "lora_alpha"), ({"lora_dropout": 1.0}, "lora_dropout")],
)
def test_values_out_of_range(values: dict[str, Any], words: str) -> None:
    errors = list(TuningConfig(**values).problems())
    assert len(errors) == 1 and words in errors[0]
