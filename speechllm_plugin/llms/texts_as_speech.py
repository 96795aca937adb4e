"""Texts in the place of the speech: what a cascade's LLM reads, and what a frozen LLM is asked in writing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechllm_plugin.llms.api import Llm


def embed_texts(llm: Llm, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """
    :param texts: token ids of each, as `PromptRenderer.render_text` gives them.
    :returns: their embeddings, `[B, T, dim]`, and lengths, `[B]`.
    """
    device = llm.embedding_table.device
    rows = [llm.embed(torch.tensor(list(ids), dtype=torch.long, device=device)) for ids in texts]
    lengths = torch.tensor([len(ids) for ids in texts], device=device)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths
