"""Loads one module of a larger checkpoint, such as its encoder."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained.building import build, without_modes
from speechllm_plugin.pretrained.identity import hash_weights, mark
from speechllm_plugin.pretrained.source import Source
from speechllm_plugin.pretrained.weights import read_weights, weight_files
from speechllm_plugin.workarounds.transformers_versions import without_weights

ModelT = TypeVar("ModelT", bound=PreTrainedModel)


def load_submodule(
    kls: type[ModelT],
    config: PretrainedConfig,
    source: Source,
    *,
    prefix: str,
    dtype: torch.dtype,
    optional_prefix: bool = False,
    ignored: tuple[str, ...] = (),
) -> ModelT:
    """One module of a larger checkpoint, in `dtype` on the default device.

    Only the weights whose names start with `prefix` are read, lazily: see `pretrained.weights` for the memory.

    :param optional_prefix: whether the checkpoint may also be that of the module itself or of a model between, in which
        names lack the prefix or the first parts of it.
    :param ignored: beginnings of names, after the prefix, of weights that are not read although they are there.
    """
    files = source.reading(lambda: weight_files(source.place))
    while optional_prefix and prefix and not any(name.startswith(prefix) for name in files):
        prefix = prefix.partition(".")[2]
    files = {
        name: file for name, file in files.items()
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith(ignored)
    }
    with without_weights():
        names = source.reading(lambda: set(kls(config).state_dict()))
    found = {_present_name(name.removeprefix(prefix)) for name in files}
    if missing := sorted(names - found):
        raise UserError(f"{source} lacks {len(missing)} weights of {kls.__name__}, the first is {missing[0]!r}")
    if unknown := sorted(found - names):
        raise UserError(f"{source} holds {len(unknown)} weights that {kls.__name__} does not know, the first is "
                        f"{unknown[0]!r}; expected the architecture of its config.json")
    device = torch.get_default_device()
    with without_modes():
        identity = source.reading(lambda: hash_weights(source.place, files))
        weights = source.reading(lambda: read_weights(source.place, files, dtype))
        weights = {_present_name(name.removeprefix(prefix)): weights.pop(name) for name in files}
        model: ModelT = source.reading(lambda: build(kls, config, weights, dtype, source))
    module: nn.Module = model
    mark(module, identity)
    module.to(device)
    return model


def _present_name(name: str) -> str:
    """Today's name of a weight: before PyTorch 2.1, and in most checkpoints, weight normalisation had other names."""
    for old, new in (("weight_g", "parametrizations.weight.original0"),
                     ("weight_v", "parametrizations.weight.original1")):
        if name.endswith(f".{old}"):
            return name.removesuffix(old) + new
    return name
