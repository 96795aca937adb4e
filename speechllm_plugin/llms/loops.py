"""The guard against hypotheses that repeat themselves (arXiv 2212.04356, section 4.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.text.repetition import compression_ratio

NO_REPEAT = 3
"""`no_repeat_ngram_size` when a loop is decoded again."""


def break_loops(
    generated: Sequence[Generated],
    text_of: Callable[[list[int]], str],
    decode: Callable[[Sequence[int], DecodingConfig], list[Generated]],
    config: DecodingConfig,
) -> list[Generated]:
    """Decodes the rows whose text compresses more than `config.max_compression_ratio` again, without repetitions.

    :param decode: decodes the rows with the given numbers.
    """
    result = list(generated)
    if config.max_compression_ratio is None or 0 < config.no_repeat_ngram_size <= NO_REPEAT:
        return result
    loops = [
        i for i, row in enumerate(result) if compression_ratio(text_of(row.tokens)) > config.max_compression_ratio
    ]
    if loops:
        again = decode(loops, replace(config, no_repeat_ngram_size=NO_REPEAT))
        for i, row in zip(loops, again, strict=True):
            result[i] = replace(row, decoded_again=True)
    return result
