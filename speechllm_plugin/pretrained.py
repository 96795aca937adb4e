"""Loads parts of pretrained checkpoints in Hugging Face's format, from the hub or from a local directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import cached_file

from speechllm_plugin.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

ConfigT = TypeVar("ConfigT", bound=PretrainedConfig)
ModelT = TypeVar("ModelT", bound=PreTrainedModel)
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def load_config(path: str, kls: type[ConfigT], key: str) -> ConfigT:
    """The configuration of a checkpoint, checked to be of the class that the part expects.

    :param key: the configuration key that holds `path`, for errors.
    """
    values = _read(key, path, lambda: PretrainedConfig.get_config_dict(_local(path, key))[0])
    if not values:
        raise UserError(f"{key}: {path} has no config.json; expected a checkpoint directory in Hugging Face's format")
    found = values.get("model_type")
    if kls.model_type and found != kls.model_type:
        raise UserError(f"{key}: {path} holds a model of type {found!r}, expected {kls.model_type!r}")
    return kls.from_dict(values)


def load_submodule(
    kls: type[ModelT], config: PretrainedConfig, path: str, *, prefix: str, dtype: torch.dtype, key: str
) -> ModelT:
    """One module of a larger checkpoint: only the weights whose names start with `prefix` are read."""
    weights = _read(key, path, lambda: dict(_weights(_local(path, key), prefix)))
    with torch.device("meta"):
        model = kls(config)
    missing = sorted(set(model.state_dict()) - set(weights))
    if missing:
        raise UserError(f"{key}: {path} lacks {len(missing)} weights of {kls.__name__}, the first is {missing[0]!r}")
    unknown = sorted(set(weights) - set(model.state_dict()))
    if unknown:
        raise UserError(f"{key}: {path} holds {len(unknown)} weights that {kls.__name__} does not know, the first is "
                        f"{unknown[0]!r}; expected the architecture of its config.json")
    try:
        model.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, assign=True)
    except RuntimeError as error:
        raise UserError(f"{key}: {path} does not fit its config.json: {' '.join(str(error).split())[:300]}") from error
    module: nn.Module = model
    module.to(torch.get_default_device())
    return model


def _weights(path: str, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Names (less `prefix`) and weights, sharded or not, in safetensors or PyTorch's format."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = cached_file(path, f"{name}.index.json", _raise_exceptions_for_missing_entries=False)
        if index is not None:
            file_of = json.loads(Path(index).read_text())["weight_map"]
            shards = sorted({file for key, file in file_of.items() if key.startswith(prefix)})
        elif cached_file(path, name, _raise_exceptions_for_missing_entries=False) is not None:
            shards = [name]
        else:
            continue
        for shard in shards:
            yield from _shard_weights(str(cached_file(path, shard)), prefix)
        return
    raise OSError("found neither model.safetensors nor pytorch_model.bin")


def _shard_weights(file: str, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    if file.endswith(".safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (not a mapping)
                if key.startswith(prefix):
                    yield key.removeprefix(prefix), tensors.get_tensor(key)
        return
    try:
        weights = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, UnpicklingError) as error:
        raise OSError(f"{file} is no whole PyTorch checkpoint: {error}") from error
    for key, tensor in weights.items():
        if key.startswith(prefix):
            yield key.removeprefix(prefix), tensor


def load_tokenizer(path: str, key: str) -> PreTrainedTokenizerFast:
    tokenizer = _read(key, path, lambda: AutoTokenizer.from_pretrained(_local(path, key)))
    if not tokenizer.is_fast:
        raise UserError(f"{key}: {path} has no fast tokenizer (tokenizer.json), which is needed to keep special "
                        "tokens inside transcripts from being read as control tokens")
    return tokenizer


def load_model(kls: Any, path: str, *, dtype: torch.dtype, key: str, **options: object) -> PreTrainedModel:
    """A whole model through one of transformers' Auto classes, in `dtype` on the default device."""
    device = torch.get_default_device()
    # fairseq2 creates models under modes that give every new tensor the dtype of the trained part: without this an LLM
    # asked for in bfloat16 would be loaded, and run, in float32.
    with torch._C.DisableTorchFunction():
        model: PreTrainedModel = _read(
            key, path, lambda: kls.from_pretrained(_local(path, key), dtype=dtype, **options)
        )
    module: nn.Module = model
    module.to(device)
    return model


def source_identity(path: str) -> dict[str, object]:
    """What tells one version of a checkpoint from another without reading its weights.

    For a local directory: names, sizes and modification times of its weight files; for the hub: its id.
    """
    folder = Path(path)
    if not folder.is_dir():
        return {"path": path}
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin"))
    return {"files": [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]}


def freeze(module: ModuleT) -> ModuleT:
    """No gradients, no dropout."""
    return module.requires_grad_(False).eval()


def _local(path: str, key: str) -> str:
    """Tells a missing local directory from a hub id: what starts like a path is never looked up on the hub."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if looks_local and not Path(path).expanduser().is_dir():
        raise UserError(f"{key}: no directory {path}; expected a local checkpoint directory or a hub id")
    return str(Path(path).expanduser()) if looks_local or Path(path).is_dir() else path


def _read(key: str, path: str, load: Any) -> Any:
    try:
        return load()
    except UserError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        advice = "" if Path(path).is_dir() else (
            "; if this machine has no access to the hub, download the model elsewhere and give its directory; "
            "a gated model needs `hf auth login` with an account that was granted access"
        )
        raise UserError(f"{key}: cannot load {path}: {reason[:300]}{advice}") from error
