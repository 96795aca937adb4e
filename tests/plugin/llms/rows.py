"""Rows of a batch, decoded by an LLM."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.prompts import PromptRenderer


def decode_rows(
    llm: Llm,
    renderer: PromptRenderer,
    rows: list[int],
    config: DecodingConfig,
    *,
    languages: Sequence[tuple[str, str]],
    speech: Tensor,
    lengths: Tensor,
    limits: Sequence[int],
) -> list[Generated]:
    """Decodes some rows as one batch.

    :param languages: of each row, of speech and of text.
    :param speech: of all rows, `[B, T, C]` with `lengths` `[B]`.
    """
    return llm.generate(
        [renderer.render(*languages[row]) for row in rows],
        speech[rows][:, : int(lengths[rows].max())],
        lengths[rows],
        keys=[f"clip {row}" for row in rows],
        limits=[limits[row] for row in rows],
        end_of_turn=renderer.end_of_turn,
        config=config,
    )
