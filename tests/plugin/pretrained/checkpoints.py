"""Checkpoints with something changed, and what loading them says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import (
    Source,
    load_config,
    load_model,
    load_submodule,
)

KEY = "encoder.config.path"


def load_encoder(path: Path, dtype: torch.dtype = torch.float32) -> WhisperEncoder:
    source = Source(str(path), KEY)
    config = load_config(source, WhisperConfig)
    return load_submodule(WhisperEncoder, config, source, prefix="model.encoder.", dtype=dtype)


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_encoder(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{KEY}: ")
    return message


def shard(path: Path, name: str) -> None:
    """Rewrites a checkpoint's weights as three shards and an index; `name` is the unsharded file's."""
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    stem, suffix = name.rsplit(".", 1)
    files = {}
    for number in range(3):
        part = {key: weights[key] for key in sorted(weights)[number::3]}
        file = f"{stem}-{number + 1:05}-of-00003.{suffix}"
        save_file(part, path / file) if suffix == "safetensors" else torch.save(part, path / file)
        files.update(dict.fromkeys(part, file))
    (path / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def llm_error(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(AutoModelForCausalLM, Source.of("llm", str(path)), dtype=torch.float32)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("llm.config.path: ")
    return message


def add_weights(path: Path, **more: torch.Tensor) -> None:
    save_file({**load_file(path / "model.safetensors"), **more}, path / "model.safetensors")
