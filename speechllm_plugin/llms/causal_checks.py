"""Checks what an LLM can do, by its configuration and by trying it on a few tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.joining import pad_rows
from speechllm_plugin.llms.packing import NAMES
from speechllm_plugin.log import log
from speechllm_plugin.workarounds.transformers_versions import own_defaults

if TYPE_CHECKING:
    from speechllm_plugin.llms.causal_llm import CausalLlm

ROW, OTHERS = 4, 8
"""Tokens that an LLM is tried on: those of a row, and those of its padding or of another row."""

ATTENTION_LAYERS = {"attention", "full_attention", "sliding_attention", "chunked_attention"}
"""transformers' names of layers whose cache holds only keys and values."""


def check_architecture(model_kls: type[PreTrainedModel], config: PretrainedConfig, path: str) -> None:
    """
    :raises UserError: a layer has a state other than keys and values, which no mask protects from padding and no cache
        of a prefix holds; or layers read the tokens themselves and not only their embeddings, and speech has no
        tokens.
    """
    text = config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ())
    if getattr(model_kls, "_is_stateful", False) or not layers <= ATTENTION_LAYERS:
        found = f"layers of the types {', '.join(sorted(layers))}" if layers else "layers with a state"
        expected = "keeps keys and values alone"
    elif getattr(text, "hidden_size_per_layer_input", None):  # Gemma 3n
        found, expected = "an embedding of each token for each layer", "reads embeddings alone"
    else:
        return
    raise UserError(
        f"llm.config.path: {path} is a {model_kls.__name__}: found {found}, expected an LLM that {expected}, such as "
        "Llama, Mistral, Qwen 3 or Gemma 3"
    )


def has_window(config: PretrainedConfig) -> bool:
    text = config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ())
    return bool(layers - {"full_attention", "attention"}) or getattr(text, "sliding_window", None) is not None


def why_not_sdpa(model_kls: type[PreTrainedModel], config: PretrainedConfig) -> str | None:
    if getattr(config.get_text_config(), "attn_logit_softcapping", None):
        return "has a soft cap on its attention scores, which sdpa leaves out"
    if not getattr(model_kls, "_supports_sdpa", False):
        return f"is a {model_kls.__name__}, which has no sdpa"
    return None


@torch.no_grad()
def check_padding(llm: CausalLlm) -> None:
    """Compares a short row alone with the same row with padding, which some models read in spite of its mask.

    :raises UserError: tokens after the row change it: the model is no decoder.
    """
    embeddings = llm.embed_ids(range(1, 1 + ROW + OTHERS))
    padding, row = embeddings[:OTHERS], embeddings[OTHERS:]
    alone = llm.decoder(inputs_embeds=row.unsqueeze(0), use_cache=False).last_hidden_state[0]
    behind = torch.cat([row, padding]).unsqueeze(0)
    if not _alike(llm.decoder(inputs_embeds=behind, use_cache=False).last_hidden_state[0, :ROW], alone):
        raise UserError(
            f"llm.config.path: {llm.config.path} is a {type(llm.model).__name__}: found that it reads what stands "
            "behind a token, expected a decoder, which looks back only"
        )
    # The padding is on the left, as in decoding a batch and in a loss with a cached prefix.
    inputs, mask = pad_rows([row, embeddings], "left")
    padded = torch.cat([torch.cat([padding, row]).unsqueeze(0), inputs[1:]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    states = llm.decoder(inputs_embeds=padded, attention_mask=mask, position_ids=positions, use_cache=False)
    logits = [_first_logits(llm, *batch) for batch in ((padded, mask), (row.unsqueeze(0), mask[:1, OTHERS:]))]
    llm.pads = _alike(states.last_hidden_state[0, OTHERS:], alone) and _alike(logits[0][0], logits[1][0])
    if not llm.pads:
        log.warning(
            "{} is a {}, which reads padding in spite of its mask: its rows are decoded one by one.",
            llm.config.path, type(llm.model).__name__,
        )


@torch.no_grad()
def check_packing(llm: CausalLlm) -> bool:
    """Compares two packed rows with each of them alone, and with a padded batch after a prefix.

    :returns: whether they are the same; the model then has the attention that keeps rows apart.
    """
    config = llm.model.config
    name = NAMES.get(llm.config.attention)
    # A layer with chunked attention knows the length of its chunks only from its mask.
    if name is None or "chunked_attention" in (getattr(config.get_text_config(), "layer_types", None) or ()):
        return False
    embeddings = llm.embed_ids(range(1, 1 + ROW + OTHERS))
    rows = [embeddings[:OTHERS], embeddings[OTHERS:]]
    alone = [llm.decoder(inputs_embeds=row.unsqueeze(0), use_cache=False).last_hidden_state[0] for row in rows]
    own, config._attn_implementation = config._attn_implementation, name
    try:
        together, packed = llm.packed_states(rows, [(), ()])
        prefixes = [tuple(range(1, 1 + ROW))] * len(rows)
        behind, _ = llm.packed_states(rows, prefixes)
        expected = [*alone, *llm.padded_states(rows, prefixes)]
    except (TypeError, ValueError, AttributeError, AssertionError, RuntimeError, LookupError):
        same = False  # the decoder does not accept the argument
    else:
        told = packed.window_was_told or not has_window(config)
        same = told and all(map(_alike, [*together, *behind], expected))
    llm.forget_states()  # those of the made-up prefix
    if not same:
        config._attn_implementation = own
    return same


def _first_logits(llm: CausalLlm, inputs: Tensor, mask: Tensor) -> Tensor:
    """Logits of the first token in transformers' own decoding, `[B, V]`."""
    generate: Any = llm.model.generate
    config = GenerationConfig(
        do_sample=False, max_new_tokens=1, pad_token_id=0, output_logits=True, return_dict_in_generate=True
    )
    with own_defaults(llm.model):
        output = generate(inputs_embeds=inputs, attention_mask=mask, generation_config=config)
    logits: Tensor = output.logits[0]
    return logits


def _alike(found: Tensor, expected: Tensor) -> bool:
    """Whether they are equal up to the rounding of half precision in a deep model."""
    found, expected = found.float(), expected.float()
    return bool((found - expected).norm() < 0.1 * expected.norm())
