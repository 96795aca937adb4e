"""Checks whether clip, prompt and text fit the LLM: more positions than it has are an error or a warning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import PretrainedConfig

from speechllm_plugin.errors import ClipError, UserError
from speechllm_plugin.log import log
from speechllm_plugin.prompts import RenderedPrompt

if TYPE_CHECKING:
    from speechllm_plugin.llms.api import Llm


@dataclass(frozen=True)
class Positions:
    """The positions of an LLM."""

    limit: int
    """Number of positions: the rows of a table, otherwise the length that the LLM was trained on."""
    table: bool
    """Whether positions are looked up in a table (GPT-2's), which ends; rotary positions and biases have no end."""


def positions_of(model: nn.Module, config: PretrainedConfig) -> Positions | None:
    """:returns: None where the LLM counts distances without a limit."""
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    rotary = any("rotary" in type(module).__name__.lower() for module in model.modules())
    return Positions(limit, table=not rotary and not getattr(config, "alibi", False))


def check_positions(
    llm: Llm, names: Sequence[str], prompts: Sequence[RenderedPrompt], lengths: Tensor, texts: Sequence[int]
) -> None:
    """
    :param names: names of the clips, for the error.
    :param lengths: vectors between `before` and `after` of each prompt, `[B]`, on the host.
    :param texts: the most tokens of each text.
    :raises UserError: a prompt alone is longer than the LLM takes.
    :raises ClipError: a clip needs more positions than the LLM's table has. For an LLM without a table, a clip beyond
        its training length is only warned of.
    """
    if llm.positions is None:
        return
    limit = llm.positions.limit
    for name, prompt in zip(names, prompts, strict=True):
        check_prompt(llm.positions, name, prompt)
    needed = [
        len(prompt.before) + vectors + len(prompt.after) + text  # words between them are among the vectors
        for prompt, vectors, text in zip(prompts, lengths.tolist(), texts, strict=True)
    ]
    beyond = [row for row, count in enumerate(needed) if count > limit]
    if not beyond:
        return
    longest = max(beyond, key=lambda row: needed[row])
    others = f" (and {len(beyond) - 1} more clips of its batch)" if len(beyond) > 1 else ""
    words = prompts[longest].num_tokens
    vectors = needed[longest] - words - texts[longest]
    error = needs_more(f"{names[longest]}{others}", llm.positions, words, vectors, texts[longest])
    if llm.positions.table:
        raise error
    log.warning("{}", error)


def check_prompt(positions: Positions, name: str, prompt: RenderedPrompt) -> None:
    """:raises UserError: the prompt leaves no room for speech."""
    if prompt.num_tokens >= positions.limit:
        raise UserError(
            f"{name}: found a prompt of {prompt.num_tokens:,} tokens, expected fewer than {positions.limit:,}, "
            f"{_what(positions)}; shorten its context, its history or its instruction"
        )


def needs_more(name: str, positions: Positions, words: int, vectors: int, text: int) -> ClipError:
    """
    :param name: name of the clip.
    :param words: tokens of its prompt.
    :param text: the most tokens of its text.
    """
    return ClipError(
        f"{name}: found {vectors} vectors of speech, which make {words + vectors + text} positions with the prompt and "
        f"at most {text} tokens of text, expected at most {positions.limit}, "
        f"{_what(positions)}; cut the clip into segments, choose an adapter with fewer vectors, or lower "
        "decoding.tokens_per_second"
    )


def _what(positions: Positions) -> str:
    return "all that the LLM has" if positions.table else "what the LLM was trained on"
