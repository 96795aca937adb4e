"""Puts the speech embeddings between those of the prompt's tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from speechllm_plugin.prompts import RenderedPrompt


@dataclass(frozen=True)
class PromptRow:
    """Prompt and speech of a row."""

    embeddings: Tensor
    """`[N, C]`."""
    prefix: tuple[int, ...] = ()
    """Tokens before them, whose states are kept from batch to batch."""


def join_rows(
    embed: Callable[[Sequence[int]], Tensor], prompts: Sequence[RenderedPrompt], speech: Tensor, lengths: Tensor
) -> list[Tensor]:
    """
    :param embed: turns token ids into embeddings `[N, C]`; the speech is cast to their dtype.
    :param speech: `[B, T, C]` with `lengths` `[B]`, on the host.
    :returns: each row's prompt and speech, `[N, C]`.
    """
    rows = []
    for i, (prompt, length) in enumerate(zip(prompts, lengths.tolist(), strict=True)):
        before, after = embed(prompt.before), embed(prompt.after)
        rows.append(torch.cat([before, speech[i, :length].to(before.dtype), after]))
    return rows


def pad_rows(rows: Sequence[Tensor], side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
    """
    :param rows: `[N, C]` each.
    :returns: the padded rows, `[B, N, C]`, and their mask `[B, N]`, int64.
    """
    masks = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return (
        pad(list(rows), batch_first=True, padding_side=side),
        pad(masks, batch_first=True, padding_side=side),
    )
