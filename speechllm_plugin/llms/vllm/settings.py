"""How vLLM is asked for what `DecodingConfig` says. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.llms.vllm.server import START


def check_settings(
    config: DecodingConfig, *, has_rules: bool, named: Callable[[str], str] = "decoding.{}".format
) -> None:
    """
    :param has_rules: see `ServedModel.has_rules`.
    :param named: the user's name of a key.
    :raises UserError: the server lacks a setting that `config` asks for.
    """
    if found := [f"{named(key)}: {problem}" for key, problem in _problems(config, has_rules)]:
        raise UserError("; ".join(found))


def _problems(config: DecodingConfig, has_rules: bool) -> Iterator[tuple[str, str]]:
    """Keys, and what is wrong with each."""
    if config.beam_size > 1:
        yield "beam_size", f"found {config.beam_size}, expected 1: vLLM searches no beams from embeddings"
    if has_rules:
        return
    rules = {"repetition_penalty": 1, "no_repeat_ngram_size": 0, "max_compression_ratio": None}
    for key, off in rules.items():
        if (found := getattr(config, key)) != off:
            expected = "off (null)" if off is None else off
            yield key, f"found {found:g}, expected {expected}, or a server that {START} has started"


def fields_of(config: DecodingConfig, limit: int, stops: list[int], seed: int) -> dict[str, Any]:
    """The fields of a request but for its model and its prompt. Every setting is sent: for those that are left out vLLM
    takes what the LLM's generation_config.json says.

    :param limit: the most tokens.
    :param stops: the tokens that end a text.
    :param seed: of the row's samples.
    """
    fields: dict[str, Any] = {
        "max_tokens": limit,
        "temperature": config.temperature,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "min_p": 0.0,
        "repetition_penalty": 1.0,  # counts the prompt, too
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        # Ours alone, which those of the checkpoint are among.
        "ignore_eos": True,
        "stop_token_ids": stops,
        "return_token_ids": True,
    }
    if config.repetition_penalty != 1 or config.no_repeat_ngram_size > 0:
        # Read by speechllm_tools.vllm.inside.speechllm_repetition.
        fields["vllm_xargs"] = {
            "text_repetition_penalty": config.repetition_penalty,
            "no_repeat_ngram_size": config.no_repeat_ngram_size,
        }
    if config.temperature > 0:
        fields["seed"] = seed
    if config.no_speech_probability is not None:
        fields["logprobs"] = 0  # of the tokens themselves, and no others
    return fields
