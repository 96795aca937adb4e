"""Texts in the place of the speech, for the LLM of a cascade and for a frozen LLM that reads the transcript."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechllm_plugin.llms.api import Llm
from speechllm_plugin.tensors.copies import on_device, on_host


def embed_texts(llm: Llm, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """
    :param texts: token ids of each text, as `PromptRenderer.render_text` gives them.
    :returns: their embeddings, `[B, T, dim]`, and lengths, `[B]`, on the host.
    """
    device = llm.embedding_table.device
    rows = [llm.embed(on_device(list(ids), device, torch.long)) for ids in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), on_host(map(len, texts))
