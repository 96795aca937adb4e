"""Whether a server has our LLM, and takes our embeddings for what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.llms.vllm.batch import encoded
from speechllm_plugin.llms.vllm.server import NAME, START, ServedModel, VllmServer
from speechllm_plugin.llms.vllm.settings import fields_of

_PROMPT, _TEXT = 16, 4
"""Tokens of the prompt that is tried, and of its continuation."""
_TRIES = 2
"""Other requests, which vLLM decodes beside these, change their rounding."""
_NEAR = 0.15
"""Most difference of the log-probabilities of a token, in nats, that rounding can make: between 16 and 32 neighbours in
bfloat16 are 0.125 apart."""


def find_model(server: VllmServer, identity: str, path: str) -> ServedModel:
    """The server's name of our LLM: by its weights, or else by its path or hub id.

    :raises UserError: there is no server, or it has another LLM.
    """
    models = server.models()
    for model in models:
        if model.name == NAME.format(identity):
            return model
    for model in models:
        if model.root == path or (Path(path).is_dir() and Path(model.root).resolve() == Path(path).resolve()):
            return model
    found = ", ".join(dict.fromkeys(model.root for model in models)) or "none"
    raise UserError(f"engine_url: found the LLM {found} at {server.url}, expected {path}, as {START} starts it")


def find_scale(server: VllmServer, model: ServedModel, embed: Callable[[Sequence[int]], Tensor], size: int) -> float:
    """The factor that makes our embeddings vLLM's. It is found by trying: a prompt of tokens and one of their
    embeddings must be continued alike.

    :param embed: token ids to embeddings `[N, C]`.
    :param size: of the vocabulary.
    :raises UserError: the server takes no embeddings, or other ones than ours.
    """
    ids = [place * (size - 1) // _PROMPT for place in range(1, _PROMPT + 1)]
    with torch.no_grad():
        embeddings = embed(ids)
    for _ in range(_TRIES):
        expected = _continuation(server, model, {"prompt": ids})
        for scale in (1.0, float(embeddings.size(1) ** 0.5)):
            if _alike(_continuation(server, model, {"prompt_embeds": encoded(embeddings * scale)}), expected):
                return scale
    raise UserError(
        f"engine_url: found that {model.root} at {server.url} goes on otherwise from tokens than from our embeddings "
        f"of them, expected the LLM of this system, as {START} starts it"
    )


def _continuation(server: VllmServer, model: ServedModel, prompt: dict[str, Any]) -> list[tuple[int, float]]:
    """Tokens with their log-probabilities."""
    config = DecodingConfig(no_speech_probability=0.0)  # the guard asks for log-probabilities
    body = {"model": model.name, **prompt, **fields_of(config, _TEXT, [], 0)}
    try:
        (choice,) = server.complete(body, is_probe=True).answer()["choices"]
        return list(zip(choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True))
    except (UserError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"engine_url: {server} takes no prompt of embeddings ({reason}); expected a server that {START} "
            "has started"
        ) from error


def _alike(found: Sequence[tuple[int, float]], expected: Sequence[tuple[int, float]]) -> bool:
    """Whether they differ by rounding alone, up to the first place where that has chosen another token."""
    for (token, probability), (other, its) in zip(found, expected, strict=True):
        if abs(probability - its) > _NEAR:
            return False
        if token != other:
            break
    return True
