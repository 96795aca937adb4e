"""An LLM whose texts would depend on roundings."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def save_unsure(llm: Path, path: Path) -> Path:
    """A Llama like that of `llm`, with logits so near each other that the shape of a batch decides among them in
    bfloat16."""
    values = LlamaConfig.from_pretrained(llm)
    values.num_hidden_layers, values.initializer_range = 4, 0.02
    torch.manual_seed(0)
    model = LlamaForCausalLM(values)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.3)
    model.to(torch.bfloat16).save_pretrained(path)
    for pattern in ("*token*", "chat_template*"):
        for file in llm.glob(pattern):
            (path / file.name).write_bytes(file.read_bytes())
    return path
