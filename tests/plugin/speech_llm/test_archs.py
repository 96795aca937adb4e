"""Named architectures: the facts they hold, how they are composed, and how checkpoints are checked against them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, Wav2Vec2BertModel
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.encoders.api import ENCODERS
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import LLMS
from speechllm_plugin.models.speech_llm.archs import (
    ADAPTER_ARCHS,
    ENCODER_ARCHS,
    LLM_ARCHS,
    PART_ARCHS,
    PartArch,
    check_part_arch,
)
from speechllm_plugin.models.speech_llm.cards import model_cards
from speechllm_plugin.models.speech_llm.config import (
    GRID,
    CtcConfig,
    SpeechLlmConfig,
    all_arch_names,
    arch_config,
    arch_names,
)
from speechllm_plugin.models.speech_llm.factory import create_speech_llm

BUILDERS: dict[str, Callable[[Any], nn.Module]] = {
    "whisper": WhisperEncoder,
    "seamless_m4t_v2": SeamlessM4Tv2SpeechEncoder,
    "w2v_bert": Wav2Vec2BertModel,
    "wav2vec2": AutoModel.from_config,
    "causal": AutoModelForCausalLM.from_config,
    "encoder_decoder": AutoModelForSeq2SeqLM.from_config,
}

# What the published safetensors files hold; of an encoder, its share of them.
PARAMETERS = {
    "whisper_large_v3": 636_968_960,
    "whisper_large_v3_turbo": 636_968_960,
    "whisper_base": 20_590_592,
    "whisper_tiny_en": 8_208_384,
    "seamless_m4t_v2": 635_046_720,
    "w2v_bert": 580_493_120,
    "wav2vec2_large_lv60": 315_438_720,
    "hubert_large_ll60k": 315_438_720,
    "wavlm_large": 315_453_120,
    "mistral_7b": 7_248_023_552,
    "llama31_8b": 8_030_261_248,
    "llama32_1b": 1_235_814_400,
    "llama32_3b": 3_212_749_824,
    "qwen25_7b": 7_615_616_512,
    "qwen3_06b": 596_049_920,
    "qwen3_8b": 8_190_735_360,
    "gemma2_9b": 9_241_705_984,
    "gemma3_1b": 999_885_952,
    "smollm2_135m": 134_515_008,
    "mt0_small": 300_176_768,
    "mt0_xl": 3_742_619_648,
    "mt0_xxl_mt": 12_921_057_280,
}
ARCHS = {**ENCODER_ARCHS, **LLM_ARCHS}


def test_every_named_part_is_counted() -> None:
    assert PARAMETERS.keys() == ARCHS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = BUILDERS[ARCHS[name].part](ARCHS[name].hf_config())
    assert sum(weight.numel() for weight in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(("kind", "registry"), [("encoder", ENCODERS), ("llm", LLMS)])
def test_options_are_keys_of_the_part(kind: str, registry: Any) -> None:
    for arch in PART_ARCHS[kind].values():
        assert registry.config(arch.part, {"path": arch.path, **arch.options}).path == arch.path


def test_the_grid_has_twenty_cells() -> None:
    cells = [".".join(names) for names in product(*GRID)]
    assert len(set(cells)) == 20
    assert set(cells) < set(arch_names())
    assert {"w2v_bert.mt0_xxl_mt.slm", "w2v_bert.mt0_xxl_mt.subsample"} < set(arch_names())


def test_what_is_listed_can_be_composed() -> None:
    assert len(set(arch_names())) == len(arch_names()) < 100
    assert set(arch_names()) < set(all_arch_names())
    assert [card["name"] for card in model_cards()] == arch_names()


def test_an_arch_is_composed_of_its_parts() -> None:
    for name in all_arch_names():
        encoder, llm, adapter = name.split(".")
        config = arch_config(name)
        config.resolve()
        part, settings = ADAPTER_ARCHS.get(adapter, (adapter, {}))
        assert (config.encoder.arch, config.llm.arch, config.adapter.name) == (encoder, llm, part)
        assert settings.items() <= vars(config.adapter.config).items()
        assert config.encoder.name == ENCODER_ARCHS[encoder].part
        assert config.llm.config.path == LLM_ARCHS[llm].path  # type: ignore[attr-defined]
        assert config.ctc == CtcConfig(weight=0.1 if part in ("cif", "ctc") else 0.0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("whisper_large_v3.llama31_8b.cfi", ("did you mean whisper_large_v3.llama31_8b.cif",)),
        ("whisper_large_v3.llama31_8b", ("encoder.llm.adapter", "encoders: whisper_large_v3,", "LLMs: mistral_7b,")),
        ("?", ("'?'", "adapters: base, cif, conv, ctc, mlp, subsample, wlq_former")),
    ],
)
def test_an_unknown_arch_is_one_line(name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as raised:
        arch_config(name)
    assert str(raised.value).startswith("arch: found ") and "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


def check(kind: str, name: str, folder: Path, part: str | None = None) -> None:
    arch = PART_ARCHS[kind][name]
    check_part_arch(kind, name, part or arch.part, PartConfig(str(folder)))


class PartConfig:
    def __init__(self, path: str) -> None:
        self.path = path


def write(arch: PartArch, folder: Path, **changes: object) -> Path:
    """A checkpoint's config.json, as transformers writes it."""
    arch.hf_config().save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, archs in PART_ARCHS.items() for name in archs])
def test_a_checkpoint_of_that_shape_passes_and_no_other(tmp_path: Path, kind: str, name: str) -> None:
    arch = PART_ARCHS[kind][name]
    check(kind, name, write(arch, tmp_path))
    for key, value in arch.shape.items():
        if isinstance(value, int) and not isinstance(value, bool):
            with pytest.raises(UserError, match=rf"^{kind}\.config\.path: .* {key} = {value * 2}, expected {value} "):
                check(kind, name, write(arch, tmp_path, **{key: value * 2}))


def test_defaults_that_a_checkpoint_leaves_out_count(tmp_path: Path) -> None:
    arch = LLM_ARCHS["mistral_7b"]
    values = json.loads((write(arch, tmp_path) / "config.json").read_text())
    for key in ("head_dim", "tie_word_embeddings"):
        values.pop(key, None)
    assert "num_hidden_layers" in values
    (tmp_path / "config.json").write_text(json.dumps(values))
    check("llm", "mistral_7b", tmp_path)


def test_another_model_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    write(LLM_ARCHS["llama31_8b"], tmp_path)
    with pytest.raises(UserError) as raised:
        check("llm", "mistral_7b", tmp_path)
    assert str(raised.value) == (
        f"llm.config.path: {tmp_path} has model_type = 'llama', expected 'mistral' as llm.arch is mistral_7b; set "
        "llm.arch to null if another model is meant"
    )
    with pytest.raises(UserError, match=r"^encoder\.name: found 'w2v_bert', expected 'whisper' as encoder\.arch is "):
        check("encoder", "whisper_tiny_en", tmp_path, part="w2v_bert")
    with pytest.raises(UserError, match=r"^llm\.arch: found 'gpt', expected null or one of mistral_7b, "):
        check_part_arch("llm", "gpt", "causal", PartConfig(str(tmp_path)))


@pytest.mark.parametrize(("kind", "arch"), [("encoder", "whisper_tiny_en"), ("llm", "smollm2_135m")])
def test_loading_checks_before_it_reads_weights(
    tiny_config: SpeechLlmConfig, tmp_path: Path, kind: str, arch: str
) -> None:
    section: Any = getattr(tiny_config, kind)
    shutil.copy(Path(section.config["path"]) / "config.json", tmp_path)  # and no weights
    section.arch, section.config["path"] = arch, str(tmp_path)
    with pytest.raises(UserError, match=rf"^{kind}\.config\.path: .* as {kind}\.arch is {arch}; set {kind}\.arch to "):
        create_speech_llm(tiny_config)


def test_a_configuration_of_before_architectures_were_kept_loads() -> None:
    """A model.yaml without `arch`."""
    values = asdict(arch_config("whisper_tiny_en.smollm2_135m.mlp"))
    for part in ("encoder", "adapter", "llm"):
        del values[part]["arch"]
    config = structure(SpeechLlmConfig, values, "model")
    assert (config.encoder.arch, config.llm.arch) == (None, None)
    config.resolve()


@pytest.mark.parametrize(("arch", "adapter", "weight"), [("base", "cif", 0.1), ("cif", "base", 0.0)])
def test_the_published_ctc_follows_the_adapter_and_not_the_name(arch: str, adapter: str, weight: float) -> None:
    config = arch_config(f"whisper_tiny_en.smollm2_135m.{arch}")
    config.adapter.name = adapter
    config.resolve()
    assert config.ctc.weight == weight


def test_settings_that_contradict_each_other() -> None:
    config = arch_config("whisper_tiny_en.smollm2_135m.base")
    config.ctc.align_steps = 5
    with pytest.raises(UserError, match=r"^ctc\.align_steps: found 5 .* \(it is 0 with the adapter 'ba"):
        config.resolve()
    config = arch_config("whisper_tiny_en.smollm2_135m.ctc")
    config.ctc.weight = 0.0
    with pytest.raises(UserError, match=r"^ctc\.weight: found 0, expected more .*: the adapter 'ctc' "):
        config.resolve()
    config = arch_config("whisper_tiny_en.smollm2_135m.mlp")
    config.adapter.arch = "mlp"
    with pytest.raises(UserError, match=r"^adapter\.arch: found 'mlp', expected null"):
        config.resolve()
