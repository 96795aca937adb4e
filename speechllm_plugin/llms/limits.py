"""The length limit of hypotheses, from the lengths of the references in the LLM's tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from speechllm_plugin.datasets.utterances import Utterance
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.log import log
from speechllm_plugin.prompts import PromptRenderer

MARGIN = 1.5
"""Factor between the limit and the length of nearly all references."""
QUANTILE = 0.99
"""Quantile of a language pair's references that sets the limit; longer ones may be wrong texts or cut clips."""
MOST_ROWS = 5_000
"""Most references that are measured, evenly spread over the split."""
MOST_RATE = 1000.0
"""Upper limit of `DecodingConfig.tokens_per_second`."""


@dataclass(frozen=True)
class ReferenceLength:
    tokens: int
    """Tokens without the end of the turn."""
    seconds: float
    """Length of its clip."""
    languages: tuple[str, str]
    """Language of the speech, and of the text."""


def reference_lengths(prompts: PromptRenderer, clips: Sequence[tuple[Utterance, float]]) -> list[ReferenceLength]:
    """
    :param clips: the clips of a split, each with its seconds; clips without a text are skipped.
    """
    step = max(1, math.ceil(len(clips) / MOST_ROWS))
    return [
        ReferenceLength(
            len(prompts.encode_target(clip.row.tgt_text)) - 1, seconds, (clip.source_lang, clip.target_lang)
        )
        for clip, seconds in clips[::step]
        if clip.row.tgt_text.strip()
    ]


def rate_for(lengths: Iterable[ReferenceLength]) -> float | None:
    """`DecodingConfig.tokens_per_second` for references like these: `MARGIN` times the `QUANTILE` of their tokens per
    second, for the pair of languages that needs most. A clip of less than a second counts as one second, since
    `extra_tokens` leave room for it.

    :returns: the rate, rounded up to one decimal; None without references.
    """
    rates: dict[tuple[str, str], list[float]] = {}
    for length in lengths:
        rates.setdefault(length.languages, []).append(length.tokens / max(length.seconds, 1.0))
    if not rates:
        return None
    most = max(float(np.quantile(pair, QUANTILE, method="higher")) for pair in rates.values())
    return min(math.ceil(10 * MARGIN * most) / 10, MOST_RATE)


def report_limit(split: str, lengths: Sequence[ReferenceLength], decoding: DecodingConfig) -> float:
    """Logs how many of the references fit the limit, with a warning where some do not.

    :returns: the share of the references that are longer than the limit.
    """
    if not lengths:
        return 0.0
    rate, extra = decoding.rate, decoding.extra_tokens
    beyond = [length for length in lengths if length.tokens > decoding.limit(length.seconds)]
    share = len(beyond) / len(lengths)
    mean = sum(length.tokens for length in lengths) / sum(length.seconds for length in lengths)
    if beyond:
        needed = max((length.tokens - extra) / length.seconds for length in beyond)
        log.warning(
            "Split {}: {:.1%} of {:,} references are longer than a hypothesis may be ({:g} tokens a second and {} "
            "more) and would be cut. References have {:.1f} tokens a second; decoding.tokens_per_second={:.1f} cuts "
            "none.",
            split, share, len(lengths), rate, extra, mean, math.ceil(10 * needed) / 10,
        )
    else:
        log.info(
            "Split {}: references have {:.1f} tokens a second; none is longer than a hypothesis may be ({:g} tokens a "
            "second and {} more).", split, mean, rate, extra,
        )
    return share
