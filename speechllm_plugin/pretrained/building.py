"""Makes a model from weights that were read, and reports weights that are missing or superfluous."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from speechllm_plugin.errors import UserError
from speechllm_plugin.log import log
from speechllm_plugin.pretrained.source import Source

OLD_BUFFERS = r"(^|\.)(rotary\w*\.\w+|(attn|attention)\.bias|masked_bias|causal_mask|position_ids)$"
"""Names of tables and masks that models compute but older versions of transformers saved."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def build(
    kls: Any,
    config: PretrainedConfig,
    weights: dict[str, Tensor],
    dtype: torch.dtype,
    source: Source,
    **options: object,
) -> Any:
    """A model with exactly these weights, by transformers' own loader: a missing weight or another shape is an error.

    :param source: where the weights are from, for errors.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its warnings are errors here
    try:
        model, report = kls.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True,
            ignore_mismatched_sizes=True, **options,
        )
    finally:
        logging.set_verbosity(verbosity)
    if report["mismatched_keys"]:
        name = min(key if isinstance(key, str) else key[0] for key in report["mismatched_keys"])
        expected = list(model.state_dict()[name].shape)
        # transformers does not tell the name in the file of a weight that it renames.
        found = f"has the shape {list(weights[name].shape)}" if name in weights else "has another shape"
        raise UserError(f"{source} does not fit its config.json: {name} {found}, expected {expected}")
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"{source} lacks {len(missing)} weights of {type(model).__name__}, the first is {missing[0]!r}")
    check_surplus(model, report["unexpected_keys"], source)
    return model


def check_surplus(model: PreTrainedModel, names: Iterable[str], source: Source) -> None:
    """Refuses or reports weights of a checkpoint that the model has no place for.

    A surplus `layers.32.mlp.weight` beside the model's 32 layers, or `layers.0.gate.weight` beside its
    `layers.0.mlp.weight`, means another architecture and is an error. A surplus `value_head.weight` is an unused part
    and only a warning.

    :param names: weights of a checkpoint; those that the model has, or that its class ignores, are skipped.
    """
    known = model.state_dict().keys() | dict(model.named_buffers()).keys()
    patterns = [OLD_BUFFERS]
    for attribute in ("_keys_to_ignore_on_load_unexpected", "_keys_to_ignore_on_load_missing"):
        patterns += getattr(model, attribute, None) or ()
    surplus = [
        name for name in sorted(set(names) - known) if not any(re.search(pattern, name) for pattern in patterns)
    ]
    places = {place for name in known for place in _places(name)}
    wrong = [name for name in surplus if not places.isdisjoint(_places(name))]
    if wrong:
        raise UserError(f"{source} holds {len(wrong)} weights that {type(model).__name__} does not know, the first is "
                        f"{wrong[0]!r}; expected the architecture of its config.json")
    if surplus:
        log.warning("{} holds {} weights that {} does not use, the first is {}.",
                    source, len(surplus), type(model).__name__, surplus[0])


def _places(name: str) -> set[str]:
    """The module that holds a weight, and the outermost list of layers around it: `a.layers.3.mlp` and `a.layers.`."""
    stack = re.match(r"(?:[^.]*\.)*?(?=\d+\.)", name)
    return {name.rpartition(".")[0]} | ({stack[0]} if stack else set())


@contextmanager
def without_modes() -> Iterator[None]:
    """Suspends the modes under which fairseq2 creates models. They give every new tensor the dtype and the device of
    the trained part, so that an LLM in bfloat16 would be loaded, and run, in float32.

    Modes that transformers sets inside still work. Disabling all modes, as `torch._C.DisableTorchFunction` does, would
    leave the rotary tables of transformers 5 uninitialised, which it builds on the meta device by a mode and then
    fills.
    """
    with ExitStack() as stack:
        for _ in range(torch._C._len_torch_function_stack()):
            stack.enter_context(torch.overrides._pop_mode_temporarily())
        yield


@contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """Switches dropout off, so that no random numbers of the run are used up."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def freeze(module: ModuleT) -> ModuleT:
    """Switches gradients and dropout off."""
    return module.requires_grad_(False).eval()
