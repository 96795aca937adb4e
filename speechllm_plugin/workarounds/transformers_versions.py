"""What differs between transformers 4.57 and 5, in one place. A branch goes when its version does."""

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
"""What decoders call the keys and values of earlier tokens, as argument and as output."""


def states_of(output: Any) -> Tensor:
    """Hidden states `[B, T, C]` of a layer or an encoder, which gives them alone, in a tuple or in an object."""
    if isinstance(output, Tensor):
        return output
    states: Tensor = output[0] if isinstance(output, tuple) else output.last_hidden_state
    return states


@contextmanager
def without_weights() -> Iterator[None]:
    """Models are made with parameters on the meta device, as transformers' own loader makes them."""
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


@contextmanager
def own_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Keeps a checkpoint's generation_config.json out of `generate`.

    It may sample or penalise (Qwen 3's does), and would take the place of all that the caller leaves at its default.
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
    return bool(getattr(config, "scale_decoder_outputs", False))  # mT5 has none and never scales


def has_own_head(values: dict[str, Any], names: object) -> bool:
    """Whether a checkpoint of the T5 family holds a head beside its embeddings.

    transformers 5 calls every model of the family tied, and writes so; it loads such a head where it is given one.

    :param values: the checkpoint's config.json.
    :param names: of its weights.
    """
    if values.get("model_type") not in ("t5", "mt5", "umt5") or HEAD not in names:  # type: ignore[operator]
        return False
    written_by_5 = str(values.get("transformers_version", "4")).partition(".")[0] not in ("2", "3", "4")
    return written_by_5 or not values.get("tie_word_embeddings", values["model_type"] != "mt5")


HEAD = "lm_head.weight"
"""Name of the head of the T5 family."""


def _on_all_indices(mask_function: Callable[..., Tensor], bh_indices: bool = True) -> Callable[..., Tensor]:
    """A mask from a function of the indices of batch, head, query and key, which takes them all at once: what stands in
    a mask is made of comparisons and look-ups, which broadcast."""

    assert bh_indices, "a mask of queries and keys alone is for PyTorch before 2.6"

    def mask(batch: Tensor, heads: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        size = (len(batch), len(heads), len(queries), len(keys))
        places = [batch.view(-1, 1, 1, 1), heads.view(1, -1, 1, 1), queries.view(1, 1, -1, 1), keys.view(1, 1, 1, -1)]
        return mask_function(*places).expand(size)

    return mask


if VERSION < 5:
    # transformers 4 maps the function over one index after the other (torch.vmap), which took most of a step of a small
    # model: 7 of 10 ms. transformers 5 does as we do.
    vars(masking_utils).update(_vmap_for_bhqkv=_on_all_indices, TransformGetItemToIndex=nullcontext)
