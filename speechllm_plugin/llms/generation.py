"""Settings of a search, and beam search by transformers' `generate`: no row depends on its neighbours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.workarounds.transformers_versions import own_defaults


@dataclass(frozen=True)
class Search:
    """Settings of the search for the hypotheses of a batch."""

    keys: Sequence[str]
    """A name for each row, whose samples depend only on this key and the seed."""
    limits: Sequence[int]
    """The most tokens of each row."""
    end_of_turn: int
    config: DecodingConfig
    start_token: int | None = None
    """First token of an encoder-decoder's hypothesis; None for an LLM that is only a decoder."""

    def only(self, rows: Sequence[int]) -> Search:
        """The same for some of the rows."""
        return replace(self, keys=[self.keys[row] for row in rows], limits=[self.limits[row] for row in rows])

    @staticmethod
    def joined(searches: Sequence[Search]) -> Search:
        """Of all their rows, which are searched for alike."""
        keys = [key for search in searches for key in search.keys]
        return replace(searches[0], keys=keys, limits=[limit for search in searches for limit in search.limits])

    def processors(self, device: torch.device) -> LogitsProcessorList:
        """Processors of the logits, which use each row's own tokens only; its limit is not among them."""
        config, first = self.config, 0 if self.start_token is None else 1
        processors = LogitsProcessorList()
        if config.repetition_penalty != 1.0:
            processors.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
        if config.no_repeat_ngram_size > 0:
            processors.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
        if config.temperature > 0:
            processors.append(TemperatureLogitsWarper(config.temperature))
            if config.top_k > 0:
                processors.append(TopKLogitsWarper(config.top_k))
            if config.top_p < 1:
                processors.append(TopPLogitsWarper(config.top_p))
            processors.append(_RowSamples(self.keys, self.limits, config.seed, first, device))
        return processors


def generate_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Mapping[str, Tensor],
    search: Search,
) -> list[Generated]:
    """:param inputs: arguments of `generate`: embeddings and their mask."""
    device, config = inputs["inputs_embeds"].device, search.config
    processors = search.processors(device)
    first = 0 if search.start_token is None else 1
    processors.append(_RowLimits(search.limits, config.beam_size, search.end_of_turn, first, device))
    inputs = dict(inputs)
    if search.start_token is not None:
        ids = torch.tensor([search.start_token], device=device)
        inputs["decoder_input_ids"] = ids.expand(len(search.limits), -1)
    stops = stop_tokens(model.generation_config, tokenizer, search.end_of_turn)
    generate: Any = model.generate
    with own_defaults(model):
        output = generate(
            **inputs,
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=config.beam_size,
                length_penalty=config.length_penalty,
                max_new_tokens=max(search.limits) + 1,
                eos_token_id=stops,
                pad_token_id=search.end_of_turn,
                bos_token_id=tokenizer.bos_token_id,
                decoder_start_token_id=search.start_token,
            ),
            logits_processor=processors,
        )
    hypotheses = []
    for row, limit in zip(output.tolist(), search.limits, strict=True):
        row = row if search.start_token is None else row[1:]
        end = next((i for i, token in enumerate(row) if token in stops), len(row))
        hypotheses.append(Generated(row[:end], cut=end >= limit))
    return hypotheses


def stop_tokens(
    generation: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase, end_of_turn: int
) -> list[int]:
    """The tokens that end a hypothesis: the template's end of turn, and those that tokenizer and checkpoint name (Llama
    3.1 names three).

    :param generation: the checkpoint's.
    """
    own = getattr(generation, "eos_token_id", None)
    known = [end_of_turn, tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return sorted({token for token in known if token is not None})


class _RowLimits(LogitsProcessor):
    """Ends each row at its own limit, so that a row's length never depends on its neighbours."""

    def __init__(
        self, limits: Sequence[int], beam_size: int, end_of_turn: int, first: int, device: torch.device
    ) -> None:
        # Copied to the device once: a copy at every token would make the host wait for it.
        self._ends = torch.tensor([limit + first for limit in limits for _ in range(beam_size)], device=device)
        self._end_of_turn = end_of_turn

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        over = self._ends <= input_ids.size(1)
        ended = torch.full_like(scores, -torch.inf)
        ended[:, self._end_of_turn] = 0.0
        return torch.where(over.unsqueeze(1), ended, scores)


class _RowSamples(LogitsProcessor):
    """Samples each row's token with the row's own random numbers and masks all others, so that greedy search takes it.

    For each token one uniform number, drawn beforehand by the row's own generator, is looked up in the cumulated
    probabilities. This draws no random numbers over the vocabulary, and gives the same on every device.
    """

    def __init__(
        self, keys: Sequence[str], limits: Sequence[int], seed: int, first: int, device: torch.device
    ) -> None:
        rows = [_uniform(key, seed, limit + 1) for key, limit in zip(keys, limits, strict=True)]
        self._points = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)  # (B, max(limits) + 1)
        self._first = first

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.size(1) - self._first
        cumulated = scores.double().softmax(dim=-1).cumsum(dim=-1)  # (B, V)
        points = self._points[:, step : step + 1] * cumulated[:, -1:]
        # The first token whose cumulated probability exceeds the point is never one of probability 0.
        chosen = torch.searchsorted(cumulated, points, right=True).clamp_(max=scores.size(1) - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)


def row_seed(key: str, seed: int) -> int:
    """The seed of a row's samples, signed with 64 bits as torch takes it.

    :param key: see `Search.keys`.
    :param seed: of the configuration.
    """
    digest = hashlib.blake2b(f"{seed}:{key}".encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _uniform(key: str, seed: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(row_seed(key, seed))
    return torch.rand(size, generator=generator, dtype=torch.float64)
