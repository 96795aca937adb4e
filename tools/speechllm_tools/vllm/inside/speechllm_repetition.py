"""The settings against repetition of `DecodingConfig`, for requests to vLLM: by the tokens of the text alone.

vLLM has no n-grams that must not repeat. Its repetition penalty also counts the prompt's tokens, and where a prompt is
embeddings, what an earlier request has left in their place (findings/vllm_penalties_of_earlier_requests.sh).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor


class Repetition(AdapterLogitsProcessor):
    """Reads `no_repeat_ngram_size` and `text_repetition_penalty` among `vllm_xargs`."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Callable[[list[int], Tensor], Tensor] | None:
        given = params.extra_args or {}
        size, penalty = int(given.get("no_repeat_ngram_size", 0)), float(given.get("text_repetition_penalty", 1))
        if size == 0 and penalty == 1:
            return None
        return partial(_process, size, penalty)


def _process(size: int, penalty: float, text: list[int], logits: Tensor) -> Tensor:
    """:param logits: `[V]`, of the token that follows `text`."""
    if penalty != 1 and text:
        known = logits[text]
        logits[text] = (known * penalty).where(known < 0, known / penalty)
    if banned := _ends_of_repeats(size, text):
        logits[banned] = float("-inf")
    return logits


def _ends_of_repeats(size: int, text: list[int]) -> list[int]:
    """The tokens that would make the text's last n-gram one that it has already."""
    if size == 0 or len(text) < size:
        return []
    begun = text[len(text) - size + 1 :]
    return [
        text[place + size - 1] for place in range(len(text) - size + 1) if text[place : place + size - 1] == begun
    ]
