"""Finds, outlines and loads decoder-only LLMs."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import LLMS
from speechllm_plugin.llms.causal_checks import check_architecture, check_padding, why_not_sdpa
from speechllm_plugin.llms.causal_llm import CausalLlm, CausalLlmConfig
from speechllm_plugin.llms.positions import positions_of
from speechllm_plugin.llms.quantization import quantization_options
from speechllm_plugin.llms.sharding import processes
from speechllm_plugin.log import log
from speechllm_plugin.pretrained import Source, load_model, load_tokenizer, model_class, model_of, without_modes
from speechllm_plugin.tensors.precision import part_dtype


def check_causal_llm(config: CausalLlmConfig) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    """
    :returns: transformers' class of the checkpoint and its configuration.
    :raises UserError: there is no such checkpoint, its architecture takes no speech (see `check_architecture`), or it
        cannot be quantised here.
    """
    model_kls, model_config = model_class(AutoModelForCausalLM, Source.of("llm", config.path))
    check_architecture(model_kls, model_config, config.path)
    quantization_options(config.quantization, part_dtype(config), "llm.config.quantization")
    return model_kls, model_config


def outline_causal_llm(config: CausalLlmConfig, hf_config: PretrainedConfig, dtype: torch.dtype) -> CausalLlm:
    # FlashAttention 2 is no part of PyTorch; its shapes and memory are those of `sdpa`.
    attention = "sdpa" if config.attention == "flash_attention_2" else config.attention
    if attention == "sdpa" and why_not_sdpa(model_of(AutoModelForCausalLM, hf_config), hf_config) is not None:
        attention = "eager"  # the LLM is loaded with it, too
    no_tokenizer: Any = None
    model = AutoModelForCausalLM.from_config(hf_config, dtype=dtype, attn_implementation=attention)
    llm = CausalLlm(config, model, no_tokenizer)
    llm.positions = positions_of(model, hf_config.get_text_config())
    return llm


def create_causal_llm(config: CausalLlmConfig) -> CausalLlm:
    """
    `config.attention` is set to what the model runs with.

    :raises UserError: the checkpoint cannot be loaded, it cannot be quantised here, or its architecture takes no
        speech (see `check_architecture`).
    """
    model_kls, model_config = check_causal_llm(config)
    if config.attention == "sdpa" and (why := why_not_sdpa(model_kls, model_config)) is not None:
        log.info("{} {}: it runs with eager.", config.path, why)
        config.attention = "eager"
    options = quantization_options(config.quantization, part_dtype(config), "llm.config.quantization")
    source = Source.of("llm", config.path)
    tokenizer = load_tokenizer(source)
    mesh = processes() if config.quantization == "none" else None
    device = torch.get_default_device()
    with torch.device("cpu" if mesh else device):
        model = load_model(
            AutoModelForCausalLM, source, dtype=part_dtype(config), attn_implementation=config.attention, **options
        )
    llm = CausalLlm(config, model, tokenizer)
    if mesh is not None:
        llm.share_layers(mesh, device)
    try:
        llm.positions = positions_of(model, model.config.get_text_config())
        with without_modes():
            check_padding(llm)
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"llm.config.path: {config.path} is a {type(model).__name__}: found that it does not run on embeddings and "
            f"their positions ({reason}), expected an LLM that does, such as Llama, Mistral, Qwen 3 or Gemma 3"
        ) from error
    return llm


LLMS.register("causal", CausalLlmConfig, create_causal_llm, outline=outline_causal_llm, check=check_causal_llm)
