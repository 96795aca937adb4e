"""Any decoder-only LLM that transformers' `AutoModelForCausalLM` loads and that has a chat template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.causal_checks import check_packing, has_window
from speechllm_plugin.llms.causal_rows import CausalRows
from speechllm_plugin.llms.joining import PromptRow, join_rows
from speechllm_plugin.llms.packing import PackedRows, pack
from speechllm_plugin.llms.quantization import Quantization
from speechllm_plugin.llms.running import RunningBatch
from speechllm_plugin.llms.sharding import Turns, share_layers
from speechllm_plugin.llms.side_by_side import most_positions
from speechllm_plugin.llms.states import States, join_states, length_of, stack_states, states_of
from speechllm_plugin.log import log
from speechllm_plugin.pretrained import at_rest, source_identity, without_modes
from speechllm_plugin.prompts import RenderedPrompt
from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.tensors.precision import Dtype
from speechllm_plugin.workarounds.transformers_versions import CACHE

WORTH_PACKING = 1.1
"""Ratio of a batch's padded to its real positions from which on its rows are packed. Attention row by row costs a tenth
of a step: 4 rows of 38 positions on a CPU take 0.58 s packed and 0.53 s padded."""
WORTH_PACKING_ON_GPU = 1.5
"""The same ratio on a GPU, where the attention of each row launches a few more kernels. A safe guess, not measured."""

MAX_PREFIXES = 64
"""Most prefixes whose states are kept: 5 MB each for 40 tokens of Llama 3.1 8B."""
LONGEST_PREFIX = 512
"""Most tokens of a prefix whose states are kept (64 MB for Llama 3.1 8B): a conversation's own prefix occurs once."""


@dataclass(kw_only=True)
class CausalLlmConfig:
    path: str = "meta-llama/Llama-3.1-8B-Instruct"
    """Hugging Face hub id, or a local directory in the same format."""
    dtype: Dtype = "auto"
    """Precision of weights and activations. `auto`: bfloat16 where the machine multiplies it, else float32."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """transformers' attention implementation. On a CPU `eager` trains short clips faster (bfloat16, 45 tokens a row:
    1.1 s against 1.4 s a step). `eager` takes the place of `sdpa` in models with a soft cap on their attention scores
    (Gemma 2), which `sdpa` would leave out, and in models that have no `sdpa` (gpt-oss, Bloom)."""
    packed: bool = True
    """Whether the clips of a batch are packed into one sequence without padding, where padding would be a tenth or more
    (on a GPU, a third): in training, and where prompts are read. The model is tried before training begins, or at the
    first batch. Clips are padded for models that cannot keep rows apart, and with `flash_attention_2`."""
    quantization: Quantization = "none"
    """Precision of the weights of linear layers: 8 bits (`int8`, arXiv 2208.07339) or 4 (`nf4`, arXiv 2305.14314), by
    bitsandbytes on a GPU. Gradients still reach the adapter. `none`: as `dtype` says."""


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
        self._states: dict[tuple[int, ...], States] = {}

        self.pads = True
        """Whether rows can share a padded batch: padding does not change a row."""
        self._turns: Turns | None = None

    @cached_property
    def packs(self) -> bool:
        """Whether rows can share a sequence, in which each attends to itself alone."""
        with without_modes(), at_rest(self.model):
            return self.config.packed and self.pads and check_packing(self)

    def prepare_training(self) -> None:
        # All processes are at the same place here: with FSDP they must try together.
        if self.config.packed and not self.packs:
            name = type(self.model).__name__
            log.info("{}: {} takes no packed rows: clips are padded.", self.config.path, name)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> CausalLlm:
        if self.shares_layers:
            return self  # it is where it belongs
        self._states.clear()  # they belong to other weights, or to another device
        self.__dict__.pop("packs_to_the_bit", None)
        # Moving or casting quantised weights would break their layout.
        return self if self.config.quantization != "none" else super()._apply(fn, recurse)

    @property
    def embedding_table(self) -> Tensor:
        # Gemma 3 scales in its embedding module. Models that scale later scale speech and words alike.
        scale = getattr(self.model.get_input_embeddings(), "embed_scale", None)
        return self._weight if scale is None else self._weight * scale

    @property
    def _weight(self) -> Tensor:
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def decoder(self) -> nn.Module:
        """The part that turns embeddings into hidden states."""
        decoder = self.model.get_decoder()
        # For some architectures one of the two is the whole model.
        return self.model.base_model if decoder is self.model else decoder

    @property
    def head(self) -> nn.Module:
        """The part that turns hidden states into logits."""
        head = self.model.get_output_embeddings()
        assert isinstance(head, nn.Module)
        return head

    @cached_property
    def packs_to_the_bit(self) -> int:
        """Most positions of packed rows that have, bit by bit, the results that each row has alone; 0 = none do."""
        with at_rest(self.model):
            return most_positions(self) if self.device.type == "cpu" and self.packs and not self.shares_layers else 0

    @property
    def device(self) -> torch.device:
        return self._weight.device

    @property
    def shares_layers(self) -> bool:
        return self._turns is not None

    def share_layers(self, mesh: DeviceMesh, device: torch.device) -> None:
        """Shares its layers out among processes, before anything is computed.

        :param device: of this process; until now all is on the host.
        """
        layers = [layer for layers in self.layer_lists() for layer in layers]
        share_layers(self.decoder, layers, self, mesh, device)
        self._turns = Turns(self.decoder, self._weight, mesh)

    def wait_for_others(self) -> None:
        if self._turns is not None:
            self._turns.wait_for_others()

    def target_states(
        self, prompts: Sequence[RenderedPrompt], speech: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]]
    ) -> Tensor:
        # Gradients do not reach cached states, and a recomputed layer would add to the cache twice.
        # Processes that share layers make one pass, whatever prompts their clips have.
        cached = self.pads and not (torch.is_grad_enabled() and (self.tuned or self.recomputes or self.shares_layers))
        with self.precision(speech.device.type):
            before = [() if cached else prompt.before for prompt in prompts]
            after = [(*prompt.after, *target[:-1]) for prompt, target in zip(prompts, targets, strict=True)]
            ids = [row for pair in zip(before, after, strict=True) for row in pair]
            words = self.embed_ids([token for row in ids for token in row]).split(list(map(len, ids)))
            rows = [
                torch.cat([words[2 * i], speech[i, :length].to(self._weight.dtype), words[2 * i + 1]])
                for i, length in enumerate(lengths.tolist())
            ]
            prefixes = [prompt.before if cached else () for prompt in prompts]
            packs = self.worth_packing(rows)
            states = self.packed_states(rows, prefixes)[0] if packs else self.padded_states(rows, prefixes)
            # The last len(target) positions of each row predict its target.
            return torch.cat([row[len(row) - len(target) :] for row, target in zip(states, targets, strict=True)])

    def worth_packing(self, rows: Sequence[Tensor]) -> bool:
        sizes = [len(row) for row in rows]
        worth = WORTH_PACKING if self.device.type == "cpu" else WORTH_PACKING_ON_GPU
        return max(sizes) * len(sizes) > worth * sum(sizes) and self.packs

    def packed_states(
        self, rows: Sequence[Tensor], prefixes: Sequence[tuple[int, ...]]
    ) -> tuple[list[Tensor], PackedRows]:
        """
        :param rows: embeddings of each row, `[N, C]`.
        :param prefixes: tokens before each row, whose states are kept.
        :returns: the states of each row, `[N, C]`, and its place.
        """
        states = {prefix: self.prefix_states(prefix) for prefix in set(prefixes)}
        hidden, packed, _ = self.packed_pass(rows, [states[prefix] for prefix in prefixes])
        return [hidden[row.own] for row in packed.rows], packed

    def packed_pass(
        self, rows: Sequence[Tensor], before: Sequence[States], size: int | None = None, *, keep: bool = False
    ) -> tuple[Tensor, PackedRows, DynamicCache | None]:
        """
        :param rows: embeddings of each row, `[N, C]`.
        :param before: the states of the positions before each row.
        :param size: see `pack`.
        :param keep: whether a cache is needed.
        :returns: hidden states `[positions, C]`, the place of each row in them, and the cache that `PackedRow` refers
            to.
        """
        # Rows whose states are the same object share them.
        shared = {id(states): states for states in before}
        places: dict[int, slice] = {}
        kept = 0
        for name, states in shared.items():
            places[name] = slice(kept, kept + length_of(states))
            kept = places[name].stop
        inputs, packed = pack(rows, [places[id(states)] for states in before], kept, size)
        positions = [torch.arange(len(row), device=inputs.device) + length_of(states)
                     for row, states in zip(rows, before, strict=True)]
        filling = positions[0].new_zeros(packed.size - sum(map(len, rows)))
        cache = join_states([states for states in shared.values() if states]) if kept or keep else None
        hidden = self.decoder(
            inputs_embeds=inputs,
            # transformers uses a mask of four dimensions as it is and makes none; `packed_rows` decide what is attended
            # to.
            attention_mask=inputs.new_zeros(1, 1, 1, 1),
            position_ids=torch.cat([*positions, filling]).unsqueeze(0),
            **{CACHE: cache},
            use_cache=cache is not None,
            packed_rows=packed,
        ).last_hidden_state[0]
        return hidden, packed, cache

    def padded_states(self, rows: Sequence[Tensor], prefixes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """See `packed_states`."""
        cache, prefix_mask, positions = self.prefix_cache(prefixes)
        # (B, [before +] speech + after + target - 1, C)
        inputs = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        steps = torch.arange(inputs.size(1), device=self.device)
        mask = None
        # A decoder does not look at padding on the right: only prefixes of several lengths need a mask.
        if self.pads and len(set(map(len, prefixes))) > 1:
            mask = F.pad(prefix_mask, (0, inputs.size(1)), value=1)
        hidden = self.decoder(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=positions.unsqueeze(1) + steps,
            **{CACHE: cache},
            use_cache=cache is not None,
        ).last_hidden_state
        return [states[: len(row)] for states, row in zip(hidden, rows, strict=True)]

    def logits(self, states: Tensor) -> Tensor:
        """Logits, with the scaling and caps that some models apply after their head."""
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
        """Keys and values of the tokens before the speech, which pass no gradient.

        :returns: the cache, its mask `[B, P]`, and the position that follows each row's prefix, `[B]`.
        """
        states = {prefix: self.prefix_states(prefix) for prefix in set(prefixes)}
        return stack_states([states[prefix] for prefix in prefixes], [len(prefix) for prefix in prefixes], self.device)

    def prefix_states(self, prefix: tuple[int, ...]) -> States:
        """States of the tokens of a prefix. A frozen LLM keeps those of recent prefixes, since a run has few
        prompts."""
        if not prefix:
            return []
        if prefix in self._states:
            self._states[prefix] = self._states.pop(prefix)  # moved to the end: it is forgotten last
            return self._states[prefix]
        ids = on_device([prefix], self.device)
        # States made in inference mode, as in validation, could not be used in training.
        with torch.inference_mode(False), torch.no_grad():
            output = self.decoder(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                position_ids=torch.arange(len(prefix), device=self.device).unsqueeze(0),
                # In its own cache, a model with a sliding window would keep only the window.
                **{CACHE: DynamicCache()},
                use_cache=True,
            )
        states = states_of(getattr(output, CACHE))
        if not self.tuned and len(prefix) <= LONGEST_PREFIX:
            if len(self._states) >= MAX_PREFIXES:
                self._states.pop(next(iter(self._states)))
            self._states[prefix] = states
        return states

    def forget_states(self) -> None:
        self._states.clear()

    def embed(self, ids: Tensor) -> Tensor:
        embed: Any = self.model.get_input_embeddings()
        return embed(ids)

    def embed_ids(self, ids: Sequence[int]) -> Tensor:
        return self.embed(on_device(ids, self.device, torch.long))

    def prompt_rows(self, prompts: Sequence[RenderedPrompt], speech: Tensor, lengths: Tensor) -> list[PromptRow]:
        # Rows of several lengths have padding between prefix and speech, which a window would count.
        apart = self.pads and not has_window(self.model.config)
        prefixes = [prompt.before if apart else () for prompt in prompts]
        rest = [replace(prompt, before=()) if apart else prompt for prompt in prompts]
        rows = join_rows(self.embed_ids, rest, speech, lengths)
        return [PromptRow(row, prefix) for row, prefix in zip(rows, prefixes, strict=True)]

    def running_batch(self, end_of_turn: int) -> RunningBatch:
        return RunningBatch(CausalRows(self, end_of_turn), end_of_turn)

    def identity(self) -> dict[str, Any]:
        return {"llm": "causal", "source": source_identity(self.config.path), **_without_packing(self.config)}


def _without_packing(config: CausalLlmConfig) -> dict[str, Any]:
    """The values that identify an LLM: packing changes roundings at most."""
    return {name: value for name, value in vars(config).items() if name != "packed"}


def _contiguous(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Makes the head's input contiguous. transformers passes a slice with the last position of each row. PyTorch on a
    CPU multiplies a slice by frozen weights row by row and copies the weights for each row: 2.8 s instead of 14 ms for
    8 rows of SmolLM2-135M in bfloat16 (findings/frozen_weights_times_a_slice.sh)."""
    return (inputs[0].contiguous(), *inputs[1:])
