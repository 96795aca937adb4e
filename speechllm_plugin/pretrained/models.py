"""Loads whole models by one of transformers' Auto classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained.building import build, check_surplus, without_modes
from speechllm_plugin.pretrained.classes import class_of, keeps_float32
from speechllm_plugin.pretrained.configs import config_values, generation_config
from speechllm_plugin.pretrained.identity import hash_weights, mark
from speechllm_plugin.pretrained.source import Source
from speechllm_plugin.pretrained.weights import check_files, read_weights, weight_files
from speechllm_plugin.workarounds.transformers_versions import HEAD, VERSION, has_own_head, without_weights


def check_weight_files(source: Source) -> None:
    """
    :raises UserError: files of weights in a local directory are missing or not whole. Nothing is checked for the hub,
        since that would download them.
    """
    if source.is_directory:
        source.reading(lambda: check_files(source.place))


def load_model(kls: Any, source: Source, *, dtype: torch.dtype, **options: object) -> PreTrainedModel:
    """A whole model through one of transformers' Auto classes, in `dtype` on the default device.

    :param options: options of `from_pretrained`, for instance `attn_implementation` or `quantization_config`.
    """
    values = config_values(source)
    device = torch.get_default_device()
    if (generation := generation_config(source)) is not None:
        options["generation_config"] = generation  # transformers would read it later and hide damage in it
    load = _read_quantized if "quantization_config" in (options.keys() | values.keys()) else _read_model
    model: PreTrainedModel = source.reading(lambda: load(kls, source, dtype, options))
    module: nn.Module = model
    if getattr(model, "hf_device_map", None) is None:
        module.to(device)
    return model


def _read_model(kls: Any, source: Source, dtype: torch.dtype, options: dict[str, object]) -> PreTrainedModel:
    config, options = AutoConfig.from_pretrained(source.place, return_unused_kwargs=True, **options)
    model_kls = class_of(kls, config, source)
    with without_modes():
        files = weight_files(source.place)
        own_head = has_own_head(PretrainedConfig.get_config_dict(source.place)[0], files)
        if own_head and VERSION < 5:
            config.tie_word_embeddings = False
        files = needed_files(model_kls, config, files, source, own_head)
        identity = hash_weights(source.place, files)  # first, so that the mapped pages are released before memory fills
        weights = read_weights(source.place, files, None if keeps_float32(model_kls, dtype) else dtype)
        model: PreTrainedModel = build(model_kls, config, weights, dtype, source, **options)
    model.config.name_or_path = source.place
    mark(model, identity)
    return model


def _read_quantized(kls: Any, source: Source, dtype: torch.dtype, options: dict[str, object]) -> PreTrainedModel:
    """Reads by transformers alone, whose quantisers read, convert and place each weight themselves."""
    model: PreTrainedModel
    with without_modes():
        model, report = kls.from_pretrained(source.place, dtype=dtype, output_loading_info=True, **options)
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{source} lacks {len(missing)} weights of {type(model).__name__}, the first is {missing[0]!r}")
    with without_modes():
        files = weight_files(source.place)
        if "quantization_config" in options:  # otherwise the files themselves are quantised, and every weight is needed
            config = AutoConfig.from_pretrained(source.place)
            files = needed_files(class_of(kls, config, source), config, files, source)
        mark(model, hash_weights(source.place, files))
    return model


def needed_files(
    kls: Any, config: PretrainedConfig, files: dict[str, str], source: Source, own_head: bool = False
) -> dict[str, str]:
    """The file of each weight that a model takes; a weight with several names counts once.

    :param own_head: see `has_own_head`.

    All weights of the checkpoint are given where one has another name there, since only transformers knows renamings.
    """
    # Some classes cannot be created on the meta device, but every class can be created as transformers' loader does.
    with without_weights():
        model = kls(config)
    model.tie_weights()
    names: dict[int, list[str]] = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        names.setdefault(0 if own_head and name == HEAD else id(weight), []).append(name)
    found = [next((name for name in shared if name in files), None) for shared in names.values()]
    if None in found:
        return files
    check_surplus(model, files, source)
    return {name: files[name] for name in found if name is not None}
