"""Loads the input embeddings of a model whose other weights are somewhere else."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained.building import without_modes
from speechllm_plugin.pretrained.classes import model_class
from speechllm_plugin.pretrained.configs import generation_config
from speechllm_plugin.pretrained.identity import hash_weights, mark
from speechllm_plugin.pretrained.models import needed_files
from speechllm_plugin.pretrained.source import Source
from speechllm_plugin.pretrained.weights import read_weights, weight_files
from speechllm_plugin.workarounds.transformers_versions import fill_scale, without_weights


def load_input_embeddings(kls: Any, source: Source, dtype: torch.dtype) -> tuple[nn.Module, PreTrainedModel]:
    """The module that embeds tokens, in `dtype` on the default device, marked with the identity of the whole model.

    :param kls: one of transformers' Auto classes.
    :returns: the module, and the model in which it was, without weights.
    """
    model_kls, config = model_class(kls, source)
    with without_modes():
        model, embedding = source.reading(lambda: _read(model_kls, config, source, dtype))
    if (generation := generation_config(source)) is not None:
        model.generation_config = generation
    embedding.to(torch.get_default_device())
    return embedding, model


def _read(model_kls: Any, config: Any, source: Source, dtype: torch.dtype) -> tuple[PreTrainedModel, nn.Module]:
    files = needed_files(model_kls, config, weight_files(source.place), source)
    with without_weights():
        model: PreTrainedModel = model_kls(config)
    model.tie_weights()
    embedding: Any = model.get_input_embeddings()
    names = [name for name, weight in model.state_dict(keep_vars=True).items() if weight is embedding.weight]
    stored = next((name for name in names if name in files), None)
    if stored is None:
        raise UserError(f"{source} has its input embeddings under another name than {' or '.join(names)}")
    (weight,) = read_weights(source.place, {stored: files[stored]}, dtype).values()
    if weight.shape != embedding.weight.shape:
        raise UserError(
            f"{source} does not fit its config.json: {stored} has the shape {list(weight.shape)}, expected "
            f"{list(embedding.weight.shape)}"
        )
    embedding.weight = nn.Parameter(weight, requires_grad=False)
    fill_scale(embedding)
    mark(embedding, hash_weights(source.place, files))
    return model, embedding
