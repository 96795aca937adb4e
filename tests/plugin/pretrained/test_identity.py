"""What weights are, wherever they lie."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.pretrained.identity import hash_weights, identity_of
from speechllm_plugin.pretrained.weights import weight_files


@pytest.fixture
def copy(tiny_llm: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_llm, tmp_path / "copy")


def identity(path: Path) -> str:
    return hash_weights(str(path), weight_files(str(path)))


def changed(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> str:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return identity(folder)


def test_the_same_weights_elsewhere_and_in_shards(tiny_llm: Path, copy: Path, tmp_path: Path) -> None:
    found = identity(tiny_llm)
    assert len(found) == 16 and identity(copy) == found
    AutoModelForCausalLM.from_pretrained(copy).save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert identity(tmp_path / "shards") == found
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert identity(copy) == found


def test_other_weights_of_the_same_shape(tiny_llm: Path, copy: Path) -> None:
    found = {identity(tiny_llm)}
    last = "model.layers.1.self_attn.v_proj.weight"
    found.add(changed(copy, lambda weights: weights[last].add_(1e-3)))  # a single matrix, as a LoRA may have touched
    found.add(changed(copy, lambda weights: weights.update({last: weights[last].bfloat16()})))
    found.add(changed(copy, lambda weights: weights["model.norm.weight"].mul_(2)))
    assert len(found) == 4


def test_a_file_that_cannot_be_mapped_is_told_by_its_size(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    found = identity(copy)
    torch.save({**weights, "more": torch.zeros(9)}, copy / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert identity(copy) != found


@pytest.fixture
def others(tiny_llm: Path, copy: Path) -> Path:
    """Another LLM of the same shape."""
    torch.manual_seed(99)
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_llm)).save_pretrained(copy)
    return copy


def test_a_system_knows_its_weights(
    tiny_config: SpeechLlmConfig, tiny_llm: Path, others: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = create_speech_llm(tiny_config)
    saved = model.config
    assert saved.llm.weights == identity(tiny_llm) == identity_of(model.llm)
    assert saved.encoder.weights is not None and saved.encoder.weights != saved.llm.weights

    def load(path: Path, **changes: object) -> SpeechLlmConfig:
        section = dataclasses.replace(saved.llm, config={**vars(saved.llm.config), "path": str(path)})
        return create_speech_llm(dataclasses.replace(saved, llm=section, **changes)).config  # type: ignore[arg-type]

    moved = shutil.copytree(tiny_llm, tmp_path / "moved")
    assert load(moved).llm.weights == saved.llm.weights
    with pytest.raises(UserError) as caught:
        load(others)
    assert str(caught.value) == (
        f"llm.config.path: found other weights in {others} than the checkpoint was trained with ({identity(others)}, "
        f"expected {saved.llm.weights}); give the path of those, or set other_weights=true to use these"
    )
    assert load(others, other_weights=True).llm.weights == saved.llm.weights, "what the checkpoint was trained with"
    assert "they are used, as other_weights says" in caplog.text


def test_another_precision_is_no_other_model(tiny_config: SpeechLlmConfig) -> None:
    saved = create_speech_llm(tiny_config).config
    for section in (saved.encoder, saved.llm):
        section.config.dtype = "bfloat16"  # type: ignore[attr-defined]
    create_speech_llm(saved)
