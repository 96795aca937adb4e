"""Puts the speech embeddings between those of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from speechllm_plugin.prompts import RenderedPrompt


def join(
    embed: Callable[[Sequence[int]], Tensor],
    prompts: Sequence[RenderedPrompt],
    speech: Tensor,
    lengths: Tensor,
    padding_side: Literal["left", "right"],
) -> tuple[Tensor, Tensor]:
    """
    :param embed: token ids to embeddings `[N, C]`; the speech takes their dtype.
    :param speech: `[B, T, C]` with `lengths` `[B]`.
    :returns: each row's prompt and speech `[B, N, C]`, and their mask `[B, N]`, int64.
    """
    rows = []
    for i, (prompt, length) in enumerate(zip(prompts, lengths.tolist(), strict=True)):
        before, after = embed(prompt.before), embed(prompt.after)
        rows.append(torch.cat([before, speech[i, :length].to(before.dtype), after]))
    masks = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return (
        pad(rows, batch_first=True, padding_side=padding_side),
        pad(masks, batch_first=True, padding_side=padding_side),
    )
