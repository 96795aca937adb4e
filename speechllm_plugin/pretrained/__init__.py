"""Loads parts of pretrained checkpoints in Hugging Face's format, from the hub or from a local directory."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechllm_plugin.pretrained.building import at_rest, freeze, without_modes
    from speechllm_plugin.pretrained.classes import model_class, model_of
    from speechllm_plugin.pretrained.configs import config_values, load_config, load_hf_config, load_preprocessor
    from speechllm_plugin.pretrained.copying import copy_checkpoint
    from speechllm_plugin.pretrained.identity import source_identity
    from speechllm_plugin.pretrained.models import check_weight_files, load_model
    from speechllm_plugin.pretrained.source import Source
    from speechllm_plugin.pretrained.submodules import load_submodule
    from speechllm_plugin.pretrained.tokenizer import load_tokenizer

__all__ = [
    "Source",
    "at_rest",
    "check_weight_files",
    "config_values",
    "copy_checkpoint",
    "freeze",
    "load_config",
    "load_hf_config",
    "load_model",
    "load_preprocessor",
    "load_submodule",
    "load_tokenizer",
    "model_class",
    "model_of",
    "source_identity",
    "without_modes",
]

_HOMES = {
    "building": ("at_rest", "freeze", "without_modes"),
    "classes": ("model_class", "model_of"),
    "configs": ("config_values", "load_config", "load_hf_config", "load_preprocessor"),
    "copying": ("copy_checkpoint",),
    "identity": ("source_identity",),
    "models": ("check_weight_files", "load_model"),
    "source": ("Source",),
    "submodules": ("load_submodule",),
    "tokenizer": ("load_tokenizer",),
}


def __getattr__(name: str) -> Any:
    # Imported only when needed: finding a checkpoint does not take transformers.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"speechllm_plugin.pretrained.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
