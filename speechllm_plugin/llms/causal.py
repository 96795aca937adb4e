"""Any decoder-only LLM that transformers' `AutoModelForCausalLM` loads and that has a chat template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import LLMS, Llm
from speechllm_plugin.llms.causal_rows import CausalRows
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.exact import decode
from speechllm_plugin.llms.generation import Search
from speechllm_plugin.llms.joining import join_rows, pad_rows
from speechllm_plugin.llms.positions import positions_of
from speechllm_plugin.llms.quantization import Quantization, quantization_options
from speechllm_plugin.log import log
from speechllm_plugin.pretrained import (
    Source,
    load_model,
    load_tokenizer,
    model_class,
    model_of,
    source_identity,
    without_modes,
)
from speechllm_plugin.prompts import RenderedPrompt
from speechllm_plugin.tensors.precision import Dtype, part_dtype
from speechllm_plugin.workarounds.transformers_versions import CACHE, own_defaults

ROW, PADDING = 4, 8
"""Numbers of tokens in `_check_padding`: of a row, and of the padding beside it."""

ATTENTION_LAYERS = {"attention", "full_attention", "sliding_attention", "chunked_attention"}
"""transformers' names of layers whose cache holds only keys and values."""

MAX_PREFIXES = 64
"""Prefixes whose states are kept: 5 MB each for 40 tokens of Llama 3.1 8B."""


@dataclass(kw_only=True)
class CausalLlmConfig:
    path: str = "meta-llama/Llama-3.1-8B-Instruct"
    """Hugging Face hub id, or a local directory in the same format."""
    dtype: Dtype = "auto"
    """Precision of weights and activations. `auto`: bfloat16 where the machine multiplies it, else float32."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """transformers' attention implementation. On a CPU `eager` trains short clips faster (bfloat16, 45 tokens a row:
    1.1 s against 1.4 s a step). A model with a soft cap on its attention scores (Gemma 2), which `sdpa` would leave
    out, or without `sdpa` (gpt-oss, Bloom) gets `eager` in its place."""
    quantization: Quantization = "none"
    """Keeps the weights of linear layers in 8 bits (`int8`, arXiv 2208.07339) or 4 (`nf4`, arXiv 2305.14314), through
    transformers and bitsandbytes, on a GPU. Gradients still reach the adapter."""


class CausalLlm(Llm):
    """A frozen LLM computes in the dtype of its weights, also under autocast: the same in training and in decoding.
    """

    def __init__(self, config: CausalLlmConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.tokenizer = tokenizer
        self.vocabulary_size, self.dim = self._weight.shape
        self.head.register_forward_pre_hook(_contiguous)
        self._states: dict[tuple[int, ...], list[list[Tensor]]] = {}

        self.pads = True
        """Whether rows can share a batch: padding beside a row changes nothing."""

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> CausalLlm:
        self._states.clear()  # states of other weights, or on another device
        # Quantised weights are not moved or cast: that would break their layout.
        return self if self.config.quantization != "none" else super()._apply(fn, recurse)

    @property
    def embedding_table(self) -> Tensor:
        # Gemma 3 scales in its embedding module. A model that scales later scales speech and words alike.
        scale = getattr(self.model.get_input_embeddings(), "embed_scale", None)
        return self._weight if scale is None else self._weight * scale

    @property
    def _weight(self) -> Tensor:
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def decoder(self) -> nn.Module:
        """Embeddings to hidden states."""
        decoder = self.model.get_decoder()
        # For some architectures one of the two is the whole model.
        return self.model.base_model if decoder is self.model else decoder

    @property
    def head(self) -> nn.Module:
        """Hidden states to logits."""
        head = self.model.get_output_embeddings()
        assert isinstance(head, nn.Module)
        return head

    @property
    def device(self) -> torch.device:
        return self._weight.device

    def target_states(
        self, prompts: Sequence[RenderedPrompt], speech: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]]
    ) -> Tensor:
        # Gradients do not reach cached states, and a layer that is computed again would add to the cache twice.
        cached = self.pads and not (torch.is_grad_enabled() and (self.tuned or self.recomputes))
        with self.precision(speech.device.type):
            cache, prefix_mask, positions = self.prefix_cache([prompt.before if cached else () for prompt in prompts])
            rows = [
                torch.cat([self.embed_ids(() if cached else prompts[i].before),
                           speech[i, : int(length)].to(self._weight.dtype),
                           self.embed_ids([*prompts[i].after, *targets[i][:-1]])])
                for i, length in enumerate(lengths.tolist())
            ]
            # (B, [before +] speech + after + target - 1, C)
            inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            row_lengths = torch.tensor([len(row) for row in rows], device=self.device)
            steps = torch.arange(inputs.size(1), device=self.device)
            hidden = self.decoder(
                inputs_embeds=inputs,
                # Padding is on the right, where a decoder does not look: without a prefix no mask is needed.
                attention_mask=torch.cat([prefix_mask, (steps < row_lengths.unsqueeze(1)).long()], dim=1)
                if self.pads else None,
                position_ids=positions.unsqueeze(1) + steps,
                **{CACHE: cache},
                use_cache=cache is not None,
            ).last_hidden_state
            # The last len(target) positions of each row predict its target.
            wanted = torch.tensor([len(target) for target in targets], device=self.device)
            selected = (steps < row_lengths.unsqueeze(1)) & (steps >= (row_lengths - wanted).unsqueeze(1))
            return hidden[selected]

    def logits(self, states: Tensor) -> Tensor:
        """With what some models do to the logits after their head."""
        config = self.model.config.get_text_config()
        logits = self.head(states)
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
            logits = cap * torch.tanh(logits / cap)
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if divisor := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / divisor
        return logits

    def prefix_cache(self, prefixes: Sequence[tuple[int, ...]]) -> tuple[DynamicCache | None, Tensor, Tensor]:
        """Keys and values of the tokens before the speech, through which no gradient passes.

        :returns: the cache, its mask `[B, P]`, and the position that follows each row's prefix, `[B]`.
        """
        lengths = torch.tensor([len(prefix) for prefix in prefixes], device=self.device)
        size = max(map(len, prefixes))
        # Padding is on the left: a sliding window counts it, so none may lie between a prefix and its speech.
        mask = (torch.arange(size, device=self.device) >= size - lengths.unsqueeze(1)).long()
        if size == 0:
            return None, mask, lengths
        computed = [self._prefix_states(prefix) for prefix in prefixes]
        cache = DynamicCache()
        for index in range(max(map(len, computed))):
            # An empty prefix has no states: their shape is another row's.
            like = next(states[index] for states in computed if states)
            layer = [states[index] if states else [x[..., :0, :] for x in like] for states in computed]
            keys, values = (
                torch.cat([F.pad(x, (0, 0, size - x.size(2), 0)) for x in rows]) for rows in zip(*layer, strict=True)
            )
            cache.update(keys, values, index)
        return cache, mask, lengths

    def _prefix_states(self, prefix: tuple[int, ...]) -> list[list[Tensor]]:
        """Keys and values `[1, heads, P, dim]` of each layer. A frozen LLM keeps those of the last prefixes: a run has
        one for each of its prompts."""
        if not prefix:
            return []
        if prefix in self._states:
            return self._states[prefix]
        ids = torch.tensor([prefix], device=self.device)
        # States made in inference mode, as in validation, could not be used in training.
        with torch.inference_mode(False), torch.no_grad():
            output = self.decoder(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                position_ids=torch.arange(len(prefix), device=self.device).unsqueeze(0),
                # Without a cache of ours, a model with a sliding window keeps the window only.
                **{CACHE: DynamicCache()},
                use_cache=True,
            )
        states = [[layer.keys, layer.values] for layer in getattr(output, CACHE).layers]
        if not self.tuned:
            if len(self._states) >= MAX_PREFIXES:
                self._states.pop(next(iter(self._states)))
            self._states[prefix] = states
        return states

    def embed(self, ids: Tensor) -> Tensor:
        embed: Any = self.model.get_input_embeddings()
        return embed(ids)

    def embed_ids(self, ids: Sequence[int]) -> Tensor:
        return self.embed(torch.tensor(ids, dtype=torch.long, device=self.device))

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[RenderedPrompt],
        speech: Tensor,
        lengths: Tensor,
        *,
        keys: Sequence[str],
        limits: Sequence[int],
        end_of_turn: int,
        config: DecodingConfig,
    ) -> list[Generated]:
        search = Search(keys, limits, end_of_turn, config)
        # Rows of several lengths have padding between prefix and speech, which a window would count.
        apart = self.pads and not _has_window(self.model.config)
        prefixes = [prompt.before if apart else () for prompt in prompts]
        rest = [replace(prompt, before=()) if apart else prompt for prompt in prompts]
        with torch.autocast(speech.device.type, enabled=False):
            rows = join_rows(self.embed_ids, rest, speech, lengths)
            return decode(CausalRows(self, rows, end_of_turn, prefixes), search)

    def identity(self) -> dict[str, Any]:
        return {"llm": "causal", "source": source_identity(self.config.path), **vars(self.config)}


def _contiguous(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Makes the head's input contiguous. transformers passes a slice, the last position of each row, which PyTorch on a
    CPU multiplies by frozen weights row by row, copying the weights for each: 2.8 s instead of 14 ms for 8 rows of
    SmolLM2-135M in bfloat16 (findings/frozen_weights_times_a_slice.sh)."""
    return (inputs[0].contiguous(), *inputs[1:])


def _check(model_kls: type[PreTrainedModel], config: PretrainedConfig, path: str) -> None:
    """
    :raises UserError: a layer has a state beside keys and values, which no mask protects from padding and which is not
        in the cache of a prefix; or layers read tokens otherwise than by their embeddings, which speech does not
        have.
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


def _has_window(config: PretrainedConfig) -> bool:
    text = config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ())
    return bool(layers - {"full_attention", "attention"}) or getattr(text, "sliding_window", None) is not None


def _why_not_sdpa(model_kls: type[PreTrainedModel], config: PretrainedConfig) -> str | None:
    if getattr(config.get_text_config(), "attn_logit_softcapping", None):
        return "has a soft cap on its attention scores, which sdpa leaves out"
    if not getattr(model_kls, "_supports_sdpa", False):
        return f"is a {model_kls.__name__}, which has no sdpa"
    return None


def check_causal_llm(config: CausalLlmConfig) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    """
    :returns: transformers' class of the checkpoint and its configuration.
    :raises UserError: there is no such checkpoint, its architecture takes no speech (see `_check`), or it cannot be
        quantised here.
    """
    model_kls, model_config = model_class(AutoModelForCausalLM, Source.of("llm", config.path))
    _check(model_kls, model_config, config.path)
    quantization_options(config.quantization, part_dtype(config), "llm.config.quantization")
    return model_kls, model_config


def outline_causal_llm(config: CausalLlmConfig, hf_config: PretrainedConfig, dtype: torch.dtype) -> CausalLlm:
    # FlashAttention 2 is no part of PyTorch; in shapes and memory it is what `sdpa` is.
    attention = "sdpa" if config.attention == "flash_attention_2" else config.attention
    if attention == "sdpa" and _why_not_sdpa(model_of(AutoModelForCausalLM, hf_config), hf_config) is not None:
        attention = "eager"  # as the LLM is loaded
    no_tokenizer: Any = None
    model = AutoModelForCausalLM.from_config(hf_config, dtype=dtype, attn_implementation=attention)
    llm = CausalLlm(config, model, no_tokenizer)
    llm.positions = positions_of(model, hf_config.get_text_config())
    return llm


def create_causal_llm(config: CausalLlmConfig) -> CausalLlm:
    """
    `config.attention` is set to what the model runs with.

    :raises UserError: the checkpoint cannot be loaded, it cannot be quantised here, or its architecture takes no
        speech (see `_check`).
    """
    model_kls, model_config = check_causal_llm(config)
    if config.attention == "sdpa" and (why := _why_not_sdpa(model_kls, model_config)) is not None:
        log.info("{} {}: it runs with eager.", config.path, why)
        config.attention = "eager"
    options = quantization_options(config.quantization, part_dtype(config), "llm.config.quantization")
    source = Source.of("llm", config.path)
    tokenizer = load_tokenizer(source)
    model = load_model(
        AutoModelForCausalLM, source, dtype=part_dtype(config), attn_implementation=config.attention, **options
    )
    llm = CausalLlm(config, model, tokenizer)
    try:
        llm.positions = positions_of(model, model.config.get_text_config())
        with without_modes():
            _check_padding(llm)
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"llm.config.path: {config.path} is a {type(model).__name__}: found that it does not run on embeddings and "
            f"their positions ({reason}), expected an LLM that does, such as Llama, Mistral, Qwen 3 or Gemma 3"
        ) from error
    return llm


@torch.no_grad()
def _check_padding(llm: CausalLlm) -> None:
    """Compares a short row alone with the same row beside padding, which some models read in spite of its mask.

    :raises UserError: tokens behind the row change it: the model is no decoder.
    """
    embeddings = llm.embed_ids(range(1, 1 + ROW + PADDING))
    padding, row = embeddings[:PADDING], embeddings[PADDING:]
    alone = llm.decoder(inputs_embeds=row.unsqueeze(0), use_cache=False).last_hidden_state[0]
    behind = torch.cat([row, padding]).unsqueeze(0)
    if not _alike(llm.decoder(inputs_embeds=behind, use_cache=False).last_hidden_state[0, :ROW], alone):
        raise UserError(
            f"llm.config.path: {llm.config.path} is a {type(llm.model).__name__}: found that it reads what stands "
            "behind a token, expected a decoder, which looks back only"
        )
    # Padding on the left, as in decoding a batch and in a loss with a cached prefix.
    inputs, mask = pad_rows([row, embeddings], "left")
    padded = torch.cat([torch.cat([padding, row]).unsqueeze(0), inputs[1:]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    states = llm.decoder(inputs_embeds=padded, attention_mask=mask, position_ids=positions, use_cache=False)
    logits = [_first_logits(llm, *batch) for batch in ((padded, mask), (row.unsqueeze(0), mask[:1, PADDING:]))]
    llm.pads = _alike(states.last_hidden_state[0, PADDING:], alone) and _alike(logits[0][0], logits[1][0])
    if not llm.pads:
        log.warning(
            "{} is a {}, which reads padding in spite of its mask: its rows are decoded one by one.",
            llm.config.path, type(llm.model).__name__,
        )


def _first_logits(llm: CausalLlm, inputs: Tensor, mask: Tensor) -> Tensor:
    """`[B, V]`, of the first token that transformers' own decoding writes."""
    generate: Any = llm.model.generate
    config = GenerationConfig(
        do_sample=False, max_new_tokens=1, pad_token_id=0, output_logits=True, return_dict_in_generate=True
    )
    with own_defaults(llm.model):
        output = generate(inputs_embeds=inputs, attention_mask=mask, generation_config=config)
    logits: Tensor = output.logits[0]
    return logits


def _alike(found: Tensor, expected: Tensor) -> bool:
    """Equal up to the rounding of half precision in a deep model."""
    found, expected = found.float(), expected.float()
    return bool((found - expected).norm() < 0.1 * expected.norm())


LLMS.register("causal", CausalLlmConfig, create_causal_llm, outline=outline_causal_llm, check=check_causal_llm)
