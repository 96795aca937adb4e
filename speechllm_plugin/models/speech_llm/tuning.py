"""Trains parts of the pretrained encoder and LLM: low-rank updates of layers, and weights themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D
from typing_extensions import override

from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig
from speechllm_plugin.pretrained.part import PretrainedPart

ATTENTION = (
    "*.[qkvo]_proj", "*.qkv_proj", "*.out_proj",  # Llama, Mistral, Qwen, Gemma; Phi; Whisper, wav2vec 2.0, HuBERT
    "*Attention.[qkvo]",  # T5
    "*.linear_[qkv]", "*.linear_out",  # w2v-BERT, SeamlessM4T
    "*attn.c_attn", "*attn.c_proj",  # GPT-2
    "*attention.query_key_value", "*attention.dense",  # GPT-NeoX, Falcon
)  # fmt: skip
"""Name patterns of the attention's projections in the known families."""


class TunedWeights(nn.Module):
    """The trained weights of a part, under their names in it.

    They are the part's own `Parameter` objects, registered here while the part itself stays outside the module tree. So
    the optimizer updates them, data parallelism reduces them, and a checkpoint holds nothing else of the part.
    """

    def __init__(self, part: PretrainedPart, config: TuningConfig, key: str) -> None:
        """Adds the updates to `part`, which is frozen, and lets gradients reach the trained weights.

        :param key: the configuration key that holds `config`, for errors.
        :raises UserError: a pattern matches nothing, a weight is not float32, or peft is not installed.
        """
        super().__init__()
        # This comes before LoRA, which renames the layers that it wraps: patterns are for the checkpoint's names.
        weights = _unfrozen(part, config.unfreeze, f"{key}.unfreeze")
        self._dropouts: list[nn.Module] = []
        if config.lora_rank > 0:
            self._dropouts = add_lora(part, config, key)
            weights |= {name: weight for name, weight in part.named_parameters() if weight.requires_grad}
        self._places: list[tuple[nn.Module, str, nn.Module, str]] = []
        names = {weight: name for name, weight in weights.items()}
        for module in part.modules():
            for own_name, weight in module._parameters.items():
                if weight is not None and weight in names:  # tied weights have several names
                    self._places.append((module, own_name, *self._hold(names[weight], weight)))
        part.tuned = True
        part.follows_autocast = all(weight.dtype == torch.float32 for weight in part.parameters())

    def _hold(self, name: str, weight: nn.Parameter) -> tuple[nn.Module, str]:
        holder: nn.Module = self
        *parents, last = name.split(".")
        for parent in parents:
            if parent not in holder._modules:
                holder.add_module(parent, nn.Module())
            holder = holder.get_submodule(parent)
        weight.requires_grad_(True)
        holder.register_parameter(last, weight)
        return holder, last

    def tie(self) -> None:
        """Gives the part the parameters that are held here, after a move has made new `Parameter` objects."""
        for module, name, holder, held_name in self._places:
            module._parameters[name] = holder._parameters[held_name]

    @override
    def train(self, mode: bool = True) -> TunedWeights:
        """Sets the mode of the updates' dropout; the dropout of the pretrained layers stays off."""
        super().train(mode)
        for dropout in self._dropouts:
            dropout.train(mode)
        return self


def add_lora(part: PretrainedPart, config: TuningConfig, key: str) -> list[nn.Module]:
    """Adds updates, which begin as zeros, to linear layers of `part`; `config.lora_targets` is filled in.

    :returns: the dropouts of the updates.
    """
    config.check_installed(key)
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    linear = [name for name, module in part.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    if config.lora_targets is None:
        config.lora_targets = [pattern for pattern in ATTENTION if any(fnmatchcase(name, pattern) for name in linear)]
        if not config.lora_targets:
            raise UserError(
                f"{key}.lora_targets: found null, but the attention has no names that are known; expected patterns of "
                f"names such as {linear[0]!r}"
            )
    targets = _matching(config.lora_targets, linear, f"{key}.lora_targets", "linear layer")
    for name in targets:
        # WavLM's attention passes its layers' weights to a PyTorch function, so that an update beside a layer never
        # runs.
        if type(part.get_submodule(name.rpartition(".")[0])).__name__ == "WavLMAttention":
            raise UserError(
                f"{key}.lora_targets: found {name!r}, a layer that WavLM's attention does not run; expected others, or "
                "unfreeze"
            )
    inject_adapter_in_model(
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # it is only divided
            lora_dropout=config.lora_dropout,
            target_modules="|".join(map(re.escape, targets)),
        ),
        part,
    )
    part.eval()
    for weight in part.parameters():
        if weight.requires_grad:  # peft gives the updates the dtype of their layer
            weight.data = weight.data.float()
    return [
        dropout for layer in part.modules() if isinstance(layer, LoraLayer) for dropout in layer.lora_dropout.values()
    ]


def _unfrozen(part: PretrainedPart, patterns: Sequence[str], key: str) -> dict[str, nn.Parameter]:
    weights = dict(part.named_parameters(remove_duplicate=False))
    found: dict[nn.Parameter, str] = {}
    for name in _matching(patterns, weights, key, "weight"):
        weight = weights[name]
        if weight.dtype != torch.float32:
            raise UserError(
                f"{key}: found {name!r}, which is {str(weight.dtype).removeprefix('torch.')}, expected float32 (the "
                "part's config.dtype, without quantization): smaller types lose small updates"
            )
        found.setdefault(weight, name)
    return {name: weight for weight, name in found.items()}


def _matching(patterns: Sequence[str], names: Iterable[str], key: str, kind: str) -> list[str]:
    """The names that match any of the patterns.

    :raises UserError: a pattern matches none.
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{key}: {pattern!r} matches no {kind}; expected a pattern of names such as "
                            f"{names[len(names) // 2]!r}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
