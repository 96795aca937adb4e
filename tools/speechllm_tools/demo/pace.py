"""Forecasts the demo's time on this machine by a measurement of a few seconds."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from speechllm_plugin.tensors.precision import DTYPES, machine_precision

_ROWS, _POSITIONS = 4, 36
"""Rows and positions of the LLM in a training batch of one process."""


@dataclass(frozen=True)
class Pace:
    """Seconds of the demo's pieces. One is measured; the others have the same ratio to it as in one measured run."""

    layer: float
    """Measured seconds of one layer of SmolLM2-135M over a training batch, forward and backward, on one core."""
    dtype: str
    processors: int

    def __str__(self) -> str:
        return f"{self.dtype}, {self.processors} processors"

    @property
    def speech_clip(self) -> float:
        return 0.008 / self.processors

    @property
    def llm_step(self) -> float:
        return 41 * self.layer

    @property
    def align_step(self) -> float:
        return 8 * self.layer

    @property
    def encoded_clip(self) -> float:
        return self.layer

    @property
    def decoded_clip(self) -> float:
        return 18 * self.layer


def measure() -> Pace:
    name = machine_precision("cpu").auto
    dtype = DTYPES[name]
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3, num_hidden_layers=1,
        attn_implementation="eager",
    )  # fmt: skip
    layer = LlamaDecoderLayer(config, 0).to(dtype).requires_grad_(False)
    inputs = torch.randn(_ROWS, _POSITIONS, config.hidden_size, dtype=dtype, requires_grad=True)
    positions = torch.arange(_POSITIONS).unsqueeze(0)
    embeddings = LlamaRotaryEmbedding(config)(inputs, positions)
    times: list[float] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each process of the demo
    while len(times) < 3 or (sum(times) < 2 and len(times) < 50):
        start = time.perf_counter()
        layer(inputs, position_embeddings=embeddings)[0].sum().backward()
        times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return Pace(sorted(times)[len(times) // 2], name, len(os.sched_getaffinity(0)))
