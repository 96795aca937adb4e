"""Whole models and tokenizers: the same as transformers', nothing completed, nothing read twice."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LlamaConfig,
    LlamaForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
)

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import (
    Source,
    building,
    load_model,
    load_tokenizer,
    source_identity,
)
from speechllm_plugin.workarounds.transformers_versions import VERSION
from tests.plugin.pretrained.checkpoints import add_weights, llm_error


def test_whole_models_and_tokenizers(tiny_llm: Path, tmp_path: Path) -> None:
    model = load_model(AutoModelForCausalLM, Source.of("llm", str(tiny_llm)), dtype=torch.float32)
    assert isinstance(model.config, LlamaConfig)
    assert load_tokenizer(Source.of("llm", str(tiny_llm))).is_fast
    with pytest.raises(UserError, match="^llm.config.path: cannot load "):
        load_tokenizer(Source.of("llm", str(tmp_path)))
    with pytest.raises(UserError, match="^llm.config.path: .* has no config.json"):
        load_model(AutoModelForCausalLM, Source.of("llm", str(tmp_path)), dtype=torch.float32)


def test_a_whole_model_is_that_of_transformers(tiny_llm: Path, tmp_path: Path) -> None:
    """Weights, tied ones, buffers that no checkpoint holds, generation settings and attention alike."""
    expected = AutoModelForCausalLM.from_pretrained(
        tiny_llm, dtype=torch.bfloat16, attn_implementation="eager"
    )
    expected.generation_config.eos_token_id = [1, 2, 3]
    expected.tie_weights()
    expected.save_pretrained(tmp_path, max_shard_size="20KB")
    found = load_model(
        AutoModelForCausalLM, Source.of("llm", str(tmp_path)), dtype=torch.bfloat16, attn_implementation="eager"
    )
    assert type(found) is type(expected)
    assert found.config._attn_implementation == "eager"
    assert found.generation_config.eos_token_id == [1, 2, 3]
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, weight in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name
    ids = torch.arange(12).unsqueeze(0)
    assert torch.equal(found(ids).logits, expected(ids).logits)


def test_a_whole_model_is_never_completed_with_random_weights(tiny_llm: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_llm, tmp_path / "llm"))
    weights = load_file(path / "model.safetensors")
    lost = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, path / "model.safetensors")
    with pytest.raises(UserError, match="lacks 1 weights of LlamaForCausalLM, the first is 'model.layers.1.mlp.up_pr"):
        load_model(AutoModelForCausalLM, Source.of("llm", str(path)), dtype=torch.float32)
    save_file({**weights, "model.layers.1.mlp.up_proj.weight": lost[1:]}, path / "model.safetensors")
    with pytest.raises(UserError, match=r"up_proj.weight has the shape \[63, 32\], expected \[64, 32\]$"):
        load_model(AutoModelForCausalLM, Source.of("llm", str(path)), dtype=torch.float32)


def test_a_table_with_several_names_is_read_once(tmp_path: Path) -> None:
    """PyTorch files hold T5's shared table under each of its names; only the first one's shard is here."""
    torch.manual_seed(0)
    model = tiny_t5()
    model.config.save_pretrained(tmp_path)
    again = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    weights = model.state_dict()
    assert again < weights.keys()
    torch.save({name: weight for name, weight in weights.items() if name not in again}, tmp_path / "first.bin")
    files = {name: "second.bin" if name in again else "first.bin" for name in weights}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    found = load_model(AutoModelForSeq2SeqLM, Source.of("llm", str(tmp_path)), dtype=torch.float32)
    assert found.state_dict().keys() == weights.keys()
    assert all(torch.equal(found.state_dict()[name], weight) for name, weight in weights.items())
    assert found.encoder.embed_tokens.weight is found.shared.weight is found.decoder.embed_tokens.weight


def test_a_table_saved_once_has_all_its_names(tmp_path: Path) -> None:
    """As `save_pretrained` leaves the others out of safetensors; the head of mT5 is another table (before transformers
    5, which ties it)."""
    torch.manual_seed(0)
    model = tiny_t5()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert "shared.weight" in saved and "encoder.embed_tokens.weight" not in saved
    found = load_model(AutoModelForSeq2SeqLM, Source.of("llm", str(tmp_path)), dtype=torch.float32)
    assert found.encoder.embed_tokens.weight is found.shared.weight is found.decoder.embed_tokens.weight
    assert torch.equal(found.shared.weight, model.shared.weight)
    assert torch.equal(found.lm_head.weight, model.lm_head.weight)
    assert torch.equal(found.lm_head.weight, found.shared.weight) == (VERSION >= 5)


def test_weights_of_other_names_are_left_to_transformers(tiny_llm: Path, tmp_path: Path) -> None:
    """A tied LLM saved from its model without the head."""
    config = LlamaConfig.from_pretrained(tiny_llm, tie_word_embeddings=True)
    model = LlamaForCausalLM(config)
    model.model.save_pretrained(tmp_path)
    assert "embed_tokens.weight" in load_file(tmp_path / "model.safetensors")
    found = load_model(AutoModelForCausalLM, Source.of("llm", str(tmp_path)), dtype=torch.float32)
    assert all(torch.equal(found.state_dict()[name], weight) for name, weight in model.state_dict().items())


def test_a_head_saved_although_it_is_tied(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(building.log, "warning", lambda text, *values: warnings.append(text.format(*values)))
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_llm, tie_word_embeddings=True))
    model.save_pretrained(tmp_path)
    add_weights(tmp_path, **{"lm_head.weight": model.lm_head.weight.detach().clone()})
    found = load_model(AutoModelForCausalLM, Source.of("llm", str(tmp_path)), dtype=torch.float32)
    assert all(torch.equal(found.state_dict()[name], weight) for name, weight in model.state_dict().items())
    assert warnings == []


def test_a_renamed_weight_of_another_shape(tiny_llm: Path, tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_llm, tie_word_embeddings=True)).model.save_pretrained(tmp_path)
    add_weights(tmp_path, **{"layers.1.mlp.up_proj.weight": torch.zeros(63, 32)})
    assert llm_error(tmp_path).endswith(
        "does not fit its config.json: model.layers.1.mlp.up_proj.weight has another shape, expected [64, 32]"
    )


def test_a_model_of_the_wrong_kind(tiny_llm: Path) -> None:
    with pytest.raises(UserError, match="holds a model of type 'llama', which AutoModelForSeq2SeqLM does not load$"):
        load_model(AutoModelForSeq2SeqLM, Source.of("llm", str(tiny_llm)), dtype=torch.float32)


def tiny_t5() -> MT5ForConditionalGeneration:
    return MT5ForConditionalGeneration(MT5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
    ))


def test_parts_that_must_stay_in_float32_do(tmp_path: Path) -> None:
    """T5 in float16 overflows in one layer, which transformers leaves in float32: bit for bit."""
    model = tiny_t5()
    model.save_pretrained(tmp_path)
    found = load_model(AutoModelForSeq2SeqLM, Source.of("llm", str(tmp_path)), dtype=torch.float16)
    name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    assert torch.equal(found.get_parameter(name), model.get_parameter(name))
    assert found.get_parameter(name.replace("wo", "wi_0")).dtype == torch.float16


def test_identity_follows_the_weights(copy: Path) -> None:
    before = source_identity(str(copy))
    assert source_identity(str(copy)) == before
    weights = load_file(copy / "model.safetensors")
    os.utime(copy / "model.safetensors", ns=(0, 0))
    assert source_identity(str(copy)) != before
    save_file({**weights, "more": torch.zeros(1)}, copy / "model.safetensors")
    os.utime(copy / "model.safetensors", ns=(0, 0))
    assert source_identity(str(copy)) != source_identity("openai/whisper-tiny")
    assert source_identity("openai/whisper-tiny") == {"path": "openai/whisper-tiny"}


def test_an_llm_keeps_its_dtype_where_fairseq2_creates_models(tiny_llm: Path) -> None:
    """fairseq2 builds a model under a mode that gives every new tensor the dtype of the trained part."""
    pytest.importorskip("fairseq2")
    from fairseq2 import init_fairseq2
    from fairseq2.data_type import set_dtype
    from fairseq2.runtime import dependency

    if dependency._resolver is None:
        init_fairseq2()
    with torch.device("cpu"), set_dtype(torch.float32):
        model = load_model(AutoModelForCausalLM, Source.of("llm", str(tiny_llm)), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_tokenizer_saved_by_transformers_5_is_read(tiny_llm: Path, tmp_path: Path) -> None:
    """It names another class, and lists what 4 has in a mapping or under another name."""
    shutil.copytree(tiny_llm, tmp_path / "llm")
    file = tmp_path / "llm" / "tokenizer_config.json"
    values = json.loads(file.read_text())
    more = values.pop("additional_special_tokens", None) or values["extra_special_tokens"]
    values |= {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "extra_special_tokens": more}
    values.pop("added_tokens_decoder", None)
    file.write_text(json.dumps(values))
    (tmp_path / "llm" / "special_tokens_map.json").unlink(missing_ok=True)
    found, expected = (load_tokenizer(Source.of("llm", str(path))) for path in (tmp_path / "llm", tiny_llm))
    text = f"turn {more[0]} it on"
    assert found(text)["input_ids"] == expected(text)["input_ids"]
    assert set(found.all_special_ids) == set(expected.all_special_ids)
