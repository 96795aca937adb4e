"""Encoders out of checkpoints: every layout of files, and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import (
    Source,
    freeze,
    load_config,
    load_preprocessor,
    load_submodule,
)
from tests.plugin.pretrained.checkpoints import KEY, error_of, load_encoder, shard


def unshard_as_bin(path: Path, legacy: bool = False) -> None:
    weights = load_file(path / "model.safetensors")
    torch.save(weights, path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    (path / "model.safetensors").unlink()


@pytest.mark.parametrize(
    "rewrite",
    [
        pytest.param(lambda path: None, id="safetensors"),
        pytest.param(lambda path: shard(path, "model.safetensors"), id="safetensors in shards"),
        pytest.param(unshard_as_bin, id="bin"),
        pytest.param(lambda path: unshard_as_bin(path, legacy=True), id="bin of before PyTorch 1.6"),
        pytest.param(lambda path: shard(path, "pytorch_model.bin"), id="bin in shards"),
    ],
)
def test_every_layout_of_files_gives_the_same_weights(copy: Path, rewrite) -> None:  # type: ignore[no-untyped-def]
    prefix = "model.encoder."
    expected = {
        key.removeprefix(prefix): weight
        for key, weight in load_file(copy / "model.safetensors").items()
        if key.startswith(prefix)
    }
    rewrite(copy)
    found = load_encoder(copy).state_dict()
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        assert torch.equal(found[key], weight), key


def test_names_of_a_model_inside(copy: Path, tiny_whisper: Path) -> None:
    """Saved as the part itself, as the model that holds it, or as one that holds that."""
    expected = load_encoder(copy).state_dict()
    for prefix in ("model.", "model.encoder."):
        weights = {name.removeprefix(prefix): weight for name, weight in load_file(
            tiny_whisper / "model.safetensors").items() if name.startswith(prefix)}
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
        found = load_submodule(
            WhisperEncoder, load_config(Source(str(copy), KEY), WhisperConfig), Source(str(copy), KEY),
            prefix="model.encoder.", optional_prefix=True, dtype=torch.float32,
        ).state_dict()
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())
        with pytest.raises(UserError, match="lacks 37 weights of WhisperEncoder"):
            load_encoder(copy)


def test_weights_take_the_dtype_asked_for(tiny_whisper: Path) -> None:
    model = load_encoder(tiny_whisper, torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_freeze(tiny_whisper: Path) -> None:
    model = load_encoder(tiny_whisper).train()
    assert freeze(model) is model
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "nothing"
    expected = f"{KEY}: no directory {missing}; expected a local checkpoint directory or a hub id"
    assert error_of(missing) == expected


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    message = error_of(tmp_path)
    assert str(tmp_path) in message
    assert "config.json" in message
    # It is there: advice about the hub would only mislead.
    assert "hub" not in message.split("config.json")[0]
    assert "hf auth" not in message


def test_a_model_of_another_type(tiny_llm: Path) -> None:
    assert error_of(tiny_llm) == f"{KEY}: {tiny_llm} holds a model of type 'llama', expected 'whisper'"


def test_a_config_that_is_not_json(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    assert "config.json" in error_of(copy)


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert error_of(copy) == f"{KEY}: cannot load {copy}: found neither model.safetensors nor pytorch_model.bin"


def test_a_missing_weight(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.encoder.layers.1.fc1.bias"]
    save_file(weights, copy / "model.safetensors")
    assert error_of(copy) == f"{KEY}: {copy} lacks 1 weights of WhisperEncoder, the first is 'layers.1.fc1.bias'"


def test_a_weight_too_many(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["model.encoder.layers.2.fc1.bias"] = torch.zeros(64)
    save_file(weights, copy / "model.safetensors")
    message = error_of(copy)
    assert "1 weights that WhisperEncoder does not know" in message
    assert "'layers.2.fc1.bias'" in message


def test_a_weight_of_another_shape(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["model.encoder.layers.1.fc1.bias"] = torch.zeros(63)
    save_file(weights, copy / "model.safetensors")
    message = error_of(copy)
    assert message.endswith(
        "does not fit its config.json: layers.1.fc1.bias has the shape [63], expected [64]"
    )


def test_damaged_weights(copy: Path) -> None:
    """Neither format's own exception reaches the user."""
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert str(copy) in error_of(copy)
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"not a checkpoint")
    assert str(copy) in error_of(copy)


def test_a_shard_that_is_not_there(copy: Path) -> None:
    shard(copy, "model.safetensors")
    (copy / "model-00002-of-00003.safetensors").unlink()
    assert error_of(copy) == (
        f"{KEY}: cannot load {copy}: found no model-00002-of-00003.safetensors, which its index names; download it "
        "again"
    )


def test_a_shard_that_is_not_whole(copy: Path) -> None:
    shard(copy, "model.safetensors")
    file = copy / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    message = error_of(copy)
    assert f"{file} is not a whole checkpoint file (" in message
    assert message.endswith("; download it again")


def test_a_shard_of_another_download(copy: Path) -> None:
    """The index and the shards do not belong together."""
    shard(copy, "model.safetensors")
    save_file({"other": torch.zeros(1)}, copy / "model-00002-of-00003.safetensors")
    assert "model-00002-of-00003.safetensors lacks " in error_of(copy)


def test_a_model_that_this_transformers_does_not_know(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "later", "transformers_version": "9.1"}))
    assert error_of(copy) == (
        f"{KEY}: {copy} holds a model of type 'later', written by transformers 9.1, which transformers "
        f"{transformers.__version__} does not know; install a version of transformers that does, or choose another "
        "model"
    )
    del config["model_type"]
    (copy / "config.json").write_text(json.dumps(config))
    assert error_of(copy) == f"{KEY}: the config.json of {copy} has no model_type; expected a model of transformers"


def test_an_index_of_no_weights(copy: Path) -> None:
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(UserError, match="lacks 37 weights of WhisperEncoder"):
        load_submodule(
            WhisperEncoder, load_config(Source(str(copy), KEY), WhisperConfig), Source(str(copy), KEY),
            prefix="model.encoder.", optional_prefix=True, dtype=torch.float32,
        )


def test_a_preprocessor_that_is_no_object(copy: Path) -> None:
    (copy / "preprocessor_config.json").write_text("[]")
    with pytest.raises(UserError, match="preprocessor_config.json holds a list, expected a JSON object$"):
        load_preprocessor(Source(str(copy), KEY))


def test_shards_without_the_module_are_not_needed(copy: Path) -> None:
    """Of a large model only the encoder's files are read, and so downloaded."""
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    encoder = {key: weight for key, weight in weights.items() if key.startswith("model.encoder.")}
    save_file(encoder, copy / "encoder.safetensors")
    files = {key: "encoder.safetensors" if key in encoder else "decoder.safetensors" for key in weights}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert len(load_encoder(copy).state_dict()) == len(encoder) < len(weights)
