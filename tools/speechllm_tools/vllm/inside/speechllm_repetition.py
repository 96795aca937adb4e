"""The settings against repetition of `DecodingConfig`, for requests to vLLM.

vLLM has no n-grams that must not repeat. Its repetition penalty also counts the prompt's tokens, and where a prompt is
embeddings, what an earlier request has left in their place (seen with the server of vLLM 0.32).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from speechllm_rules import process
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
        return None if size == 0 and penalty == 1 else partial(process, size, penalty)
