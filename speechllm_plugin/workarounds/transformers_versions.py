"""The differences between transformers 4.57 and 5, in one place. A branch is removed with its version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, masking_utils

VERSION = int(transformers.__version__.partition(".")[0])

CACHE = "cache" if VERSION >= 5 else "past_key_values"
"""Decoders' name for the keys and values of earlier tokens, as argument and as output."""


def states_of(output: Any) -> Tensor:
    """Hidden states `[B, T, C]` in the output of a layer or an encoder: a tensor, a tuple or an object."""
    if isinstance(output, Tensor):
        return output
    states: Tensor = output[0] if isinstance(output, tuple) else output.last_hidden_state
    return states


@contextmanager
def without_weights() -> Iterator[None]:
    """Makes models with parameters on the meta device, as transformers' own loader does."""
    with ExitStack() as stack:
        if VERSION >= 5:
            from transformers.initialization import no_init_weights

            stack.enter_context(no_init_weights())
            stack.enter_context(torch.device("meta"))
        else:
            from transformers.modeling_utils import init_empty_weights
            from transformers.modeling_utils import no_init_weights as no_init_weights_4

            stack.enter_context(no_init_weights_4())
            stack.enter_context(init_empty_weights(include_buffers=False))
        yield


def fill_scale(embedding: Any) -> None:
    """Gives the scale of a module of embeddings its value, which `without_weights` has kept from it in version 5."""
    scale = getattr(embedding, "embed_scale", None)
    if isinstance(scale, Tensor) and scale.is_meta:
        embedding.embed_scale = torch.tensor(embedding.scalar_embed_scale)


@contextmanager
def own_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Keeps a checkpoint's generation_config.json out of `generate`.

    It may sample or penalise (Qwen 3's does), and would replace every value that the caller leaves at its default.
    """
    checkpoints = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = checkpoints


def scales_decoder_output(config: Any) -> bool:
    """Whether a model of the T5 family multiplies the decoder's output by `dim ** -0.5` before its head."""
    if VERSION < 5:
        return bool(config.tie_word_embeddings)
    return bool(getattr(config, "scale_decoder_outputs", False))  # mT5 has no such key and never scales


def has_own_head(values: dict[str, Any], names: object) -> bool:
    """Whether a checkpoint of the T5 family holds a head beside its embeddings.

    transformers 5 calls every model of the family tied, also in the files that it writes, but loads a head if it is
    given one.

    :param values: the checkpoint's config.json.
    :param names: names of the checkpoint's weights.
    """
    if values.get("model_type") not in ("t5", "mt5", "umt5") or HEAD not in names:  # type: ignore[operator]
        return False
    written_by_5 = str(values.get("transformers_version", "4")).partition(".")[0] not in ("2", "3", "4")
    return written_by_5 or not values.get("tie_word_embeddings", values["model_type"] != "mt5")


HEAD = "lm_head.weight"
"""Name of the head of the T5 family."""


def _on_all_indices(mask_function: Callable[..., Tensor], bh_indices: bool = True) -> Callable[..., Tensor]:
    """Turns a function of the indices of batch, head, query and key into one that takes all of them at once and gives a
    mask: mask functions consist of comparisons and look-ups, which broadcast."""

    assert bh_indices, "a mask of queries and keys alone is for PyTorch before 2.6"

    def mask(batch: Tensor, heads: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        size = (len(batch), len(heads), len(queries), len(keys))
        places = [batch.view(-1, 1, 1, 1), heads.view(1, -1, 1, 1), queries.view(1, 1, -1, 1), keys.view(1, 1, 1, -1)]
        return mask_function(*places).expand(size)

    return mask


if VERSION < 5:
    # transformers 4 maps the function over one index after the other (torch.vmap), which took 7 of the 10 ms of a small
    # model's step. transformers 5 does the same as this function.
    vars(masking_utils).update(_vmap_for_bhqkv=_on_all_indices, TransformGetItemToIndex=nullcontext)
