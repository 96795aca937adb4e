"""What can run the LLM of a trained system. Imports no torch."""

from __future__ import annotations

from typing import Literal, get_args

from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.vllm.server import DEFAULT_URL, VllmServer

Engine = Literal["transformers", "vllm"]
"""`transformers`: our own decoding, in this process. `vllm`: a vLLM server."""
ENGINES: tuple[Engine, ...] = get_args(Engine)


def find_server(engine: str, url: str | None) -> VllmServer | None:
    """The server that runs the LLM; None = it runs here.

    :param url: None = `DEFAULT_URL`.
    :raises UserError: there is no such engine, or `url` is no address of one.
    """
    if engine not in ENGINES:
        raise UserError(f"engine: found {engine!r}, expected {' or '.join(ENGINES)}")
    if engine == "vllm":
        return VllmServer(url or DEFAULT_URL)
    if url is not None:
        raise UserError(f"engine_url: found {url!r} with the engine {engine!r}, expected the engine 'vllm'")
    return None
