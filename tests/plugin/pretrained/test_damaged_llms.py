"""Checkpoints of LLMs that hold something else than they say: one line that names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
)

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import (
    Source,
    building,
    load_model,
    load_tokenizer,
)
from tests.plugin.pretrained.checkpoints import KEY, add_weights, error_of, llm_error

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"


@pytest.fixture
def llm_copy(tiny_llm: Path, tmp_path: Path) -> Path:
    """An LLM's checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_llm, tmp_path / "llm"))


def set_config(path: Path, **values: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **values}))


def test_an_llm_of_more_layers_than_its_config(llm_copy: Path) -> None:
    set_config(llm_copy, num_hidden_layers=1)
    assert llm_error(llm_copy) == (
        f"llm.config.path: {llm_copy} holds 9 weights that LlamaForCausalLM does not know, the first is "
        "'model.layers.1.input_layernorm.weight'; expected the architecture of its config.json"
    )


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_norm.weight", "model.layers.1.mlp.up_proj.bias",
                                  "lm_head.bias"])
def test_an_llm_of_another_architecture_than_its_config(name: str, llm_copy: Path) -> None:
    add_weights(llm_copy, **{name: torch.zeros(8)})
    assert f"holds 1 weights that LlamaForCausalLM does not know, the first is {name!r}" in llm_error(llm_copy)


def test_parts_beside_an_llm_are_named(llm_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(building.log, "warning", lambda text, *values: warnings.append(text.format(*values)))
    # What older versions of transformers saved is no part.
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
           "model.layers.1.self_attn.masked_bias": torch.zeros(1), "model.layers.1.attn.bias": torch.zeros(1)}
    add_weights(llm_copy, **old)
    load_model(AutoModelForCausalLM, Source.of("llm", str(llm_copy)), dtype=torch.float32)
    assert warnings == []
    add_weights(llm_copy, **{"v_head.0.weight": torch.zeros(1), "vision.patches.weight": torch.zeros(1)})
    load_model(AutoModelForCausalLM, Source.of("llm", str(llm_copy)), dtype=torch.float32)
    assert warnings == [
        f"llm.config.path: {llm_copy} holds 2 weights that LlamaForCausalLM does not use, the first is v_head.0.weight."
    ]


@pytest.mark.parametrize(
    ("text", "expected"), [("{", "is not whole ("), ("[]", "holds a list, expected a JSON object")]
)
def test_a_damaged_generation_config(text: str, expected: str, llm_copy: Path) -> None:
    (llm_copy / "generation_config.json").write_text(text)
    assert f"cannot load {llm_copy}: {llm_copy / 'generation_config.json'} {expected}" in llm_error(llm_copy)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"model_type": ["llama"]}, "holds a model of type ['llama'], written by", id="type"),
        pytest.param({"hidden_act": "no"}, "its config.json cannot be used (KeyError: 'no')", id="activation"),
        pytest.param({"rope_scaling": {"rope_type": "no", "factor": 2.0}},
                     "its config.json cannot be used (KeyError: 'no')", id="rope"),
        pytest.param({"num_attention_heads": 0}, "its config.json cannot be used (ZeroDivisionError: ", id="heads"),
        pytest.param({"hidden_size": "x"}, "its config.json cannot be used (", id="size"),
        pytest.param({"hidden_size": -8}, "cannot load ", id="negative size"),
    ],
)
def test_a_config_with_a_bad_value(values: dict[str, object], expected: str, llm_copy: Path) -> None:
    set_config(llm_copy, **values)
    assert expected in llm_error(llm_copy)


def test_an_encoders_config_with_a_bad_value(copy: Path) -> None:
    set_config(copy, activation_function="no")
    assert error_of(copy) == f"{KEY}: cannot load {copy}: its config.json cannot be used (KeyError: 'no')"


def test_a_config_that_is_a_list(llm_copy: Path) -> None:
    (llm_copy / "config.json").write_text("[]")
    assert f"cannot load {llm_copy}: {llm_copy / 'config.json'} holds a list, expected" in llm_error(llm_copy)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("{}", " has no weight_map, ", id="empty"),
        pytest.param('{"weight_map": {"lm_head.weight": 1}}', " has no weight_map, ", id="no files"),
        pytest.param("[]", " holds a list, expected a JSON object", id="list"),
        pytest.param(LFS_POINTER, " is not whole (", id="pointer"),
    ],
)
def test_a_damaged_index(text: str, expected: str, llm_copy: Path) -> None:
    index = llm_copy / "model.safetensors.index.json"
    index.write_text(text)
    assert f"{index}{expected}" in llm_error(llm_copy)


def test_pytorch_files_of_something_else(llm_copy: Path) -> None:
    weights = load_file(llm_copy / "model.safetensors")
    (llm_copy / "model.safetensors").unlink()
    file = llm_copy / "pytorch_model.bin"
    for content in ({"state_dict": weights}, [1]):
        torch.save(content, file)
        assert f"{file} holds no weights by name" in llm_error(llm_copy)
    torch.save(weights, file)
    file.write_bytes(file.read_bytes()[:-5000])
    assert f"{file} is not a whole checkpoint file (" in llm_error(llm_copy)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param("tokenizer.json", LFS_POINTER, " is not whole (", id="pointer"),
        pytest.param("tokenizer.json", '{"version": "1.0", "trunc', " is not whole (", id="truncated"),
        pytest.param("tokenizer.json", "", " is not whole (", id="empty"),
        pytest.param("tokenizer.json", "{}", " can be made of {}", id="of something else"),
        pytest.param("tokenizer.model", LFS_POINTER, " is not whole; download it again", id="pointer to SentencePiece"),
        pytest.param("tokenizer_config.json", "[]", " holds a list, expected a JSON object", id="list"),
        pytest.param(None, "", "found neither tokenizer.json nor tokenizer.model nor ", id="none"),
    ],
)
def test_a_damaged_tokenizer(name: str | None, text: str, expected: str, llm_copy: Path) -> None:
    if name != "tokenizer_config.json":
        (llm_copy / "tokenizer.json").unlink()
    if name is not None:
        (llm_copy / name).write_text(text)
        file = str(llm_copy / name)
        expected = f"no tokenizer{expected.format(file)}" if "{}" in expected else f"{file}{expected}"
    with pytest.raises(UserError) as caught:
        load_tokenizer(Source.of("llm", str(llm_copy)))
    assert str(caught.value).startswith(f"llm.config.path: cannot load {llm_copy}: {expected}")
    assert "\n" not in str(caught.value)
