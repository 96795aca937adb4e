"""The guard against hypotheses that repeat themselves (arXiv 2212.04356, section 4.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.text.repetition import compression_ratio

NO_REPEAT = 3
"""`no_repeat_ngram_size` when a loop is decoded again."""


def without_loops(
    generated: Generated, text_of: Callable[[list[int]], str], config: DecodingConfig
) -> DecodingConfig | None:
    """
    :param config: that the hypothesis was decoded with.
    :returns: how one is decoded again whose text compresses more than `config.max_compression_ratio`: without
        repetitions. None where the hypothesis stands.
    """
    if config.max_compression_ratio is None or 0 < config.no_repeat_ngram_size <= NO_REPEAT:
        return None
    if compression_ratio(text_of(generated.tokens)) <= config.max_compression_ratio:
        return None
    return replace(config, no_repeat_ngram_size=NO_REPEAT)
