"""Measures the memory of a training step of the published systems beside the estimate of `speechllm inspect`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speechllm_plugin.cost.autograd_memory import Kept
from speechllm_plugin.cost.estimate import CostModel
from speechllm_plugin.cost.gpu_memory import room_for
from speechllm_plugin.cost.skeleton import SkeletonBuilder
from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.datasets.batch import Clip, SpeechTextBatch
from speechllm_plugin.models.speech_llm.config import GRID, SpeechLlmConfig, arch_config
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.prompts import PromptRenderer
from speechllm_plugin.tasks.api import task_of_row
from speechllm_plugin.units.layers import apply_ac_to_speech_llm
from speechllm_tools.gpu.parts import hf_config, make_tokenizer

SYSTEMS = [".".join(parts) for parts in product(*GRID)]
HEAD = """\
## Memory

A step of each system of arXiv 2409.17044 with random weights: {clips} clips of {seconds:g} s, {tokens} target tokens
each, AdamW, the trained part under autocast, no dropout. The estimate is that of `speechllm inspect` for as many
vectors as the adapter made. {how}
"""
COLUMNS = ("vectors", "estimated GB", "measured GB", "measured by estimated", "activation checkpointing")


def run(
    folder: Path, device: str, *, tiny: bool, report: Callable[[str], None], systems: Sequence[str] = SYSTEMS
) -> str:
    """:returns: the section of the page."""
    clips, seconds, tokens = (2, 1.0, 8) if tiny else (10, 10.0, 30)
    rows = [f"| system | {' | '.join(COLUMNS)} |", "| --- " + "| ---: " * len(COLUMNS) + "|"]
    for name in systems:
        config = config_of(name, folder, tiny=tiny)
        rows.append(_row(name, config, clips, seconds, tokens, device))
        report(rows[-1])
    how = (
        "Measured is the most that PyTorch had allocated on the GPU." if device == "cuda" else
        "There is no GPU here, and the parts have two layers: what is measured, the tensors that a\nstep keeps, only "
        "shows that the command runs."
    )  # fmt: skip
    return "\n".join([HEAD.format(clips=clips, seconds=seconds, tokens=tokens, how=how), *rows])


def config_of(name: str, folder: Path, *, tiny: bool) -> SpeechLlmConfig:
    config = arch_config(name)
    if tiny:
        encoder, llm, _ = name.split(".")
        for kind, part, section in (("encoder", encoder, config.encoder), ("llm", llm, config.llm)):
            where = folder / "outlines" / part
            hf_config(kind, part, tiny=True).save_pretrained(where)
            section.arch, section.config = None, {"path": str(where)}
        config.adapter.config = {"dim": 32, "num_heads": 4, "ffn_dim": 64}
    keys: Any = config.adapter.config or {}
    config.adapter.config = {**keys, "dropout": 0.0}  # the estimate leaves out the masks of dropout
    return config


def _row(name: str, config: SpeechLlmConfig, clips: int, seconds: float, tokens: int, device: str) -> str:
    gc.collect()
    model = SkeletonBuilder(torch.device(device)).build(config).model
    tokenizer: Any = make_tokenizer()
    model.llm.tokenizer = tokenizer
    model.prompts = PromptRenderer(tokenizer, config.prompt, chat=model.llm.chat)
    model.to(device).train()
    skeleton, costs = SkeletonBuilder().build(config), CostModel()
    most = costs.estimate(skeleton, seconds, _most(skeleton, costs, seconds, tokens), tokens)
    memory = torch.cuda.get_device_properties(device).total_memory if device == "cuda" else 80_000_000_000
    recompute = room_for(most, clips, memory).recompute
    if recompute:
        apply_ac_to_speech_llm(model, 1)
    vectors: list[int] = []
    hook = model.adapter.register_forward_hook(lambda *call: vectors.extend(call[2].lengths.tolist()))
    measured = _measure(model, _batch(model, clips, seconds, tokens), device)
    hook.remove()
    mean = round(sum(vectors) / len(vectors))
    estimated = costs.estimate(skeleton, seconds, mean, tokens).gpu_bytes(clips, recompute=recompute)
    ratio = f"{measured / estimated:.2f}"
    return (
        f"| {name} | {mean} | {estimated / 1e9:.3g} | {measured / 1e9:.3g} | {ratio} | {'yes' if recompute else 'no'} |"
    )


def _most(skeleton: Any, costs: CostModel, seconds: float, tokens: int) -> int:
    frames = -(-costs.frames(skeleton, seconds) // skeleton.config.frame_stack)
    return costs.most_vectors(skeleton, frames, tokens)


def _batch(model: SpeechLlm, clips: int, seconds: float, tokens: int) -> SpeechTextBatch:
    text = "turn"
    while len(model.prompts.encode_target(text)) < tokens:
        text += " on"
    generator = torch.Generator().manual_seed(0)
    return SpeechTextBatch([
        Clip(
            id=str(number), row=number, task=task_of_row("en", "en"), source_lang="en", target_lang="en", text=text,
            transcript=text, audio="", audio_key=str(number), seconds=seconds,
            waveform=0.1 * torch.randn(round(seconds * SAMPLE_RATE), generator=generator),
        )
        for number in range(clips)
    ])  # fmt: skip


def _measure(model: SpeechLlm, batch: SpeechTextBatch, device: str) -> int:
    """:returns: bytes of the second step, since the first one creates the optimizer's state."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    batch.to(torch.device(device))
    parts = nn.ModuleList([model, model.encoder, model.llm])
    weights = {weight.data_ptr(): weight.nbytes for weight in parts.parameters()}
    trained = sum(parameter.numel() for parameter in model.parameters())
    for _ in range(2):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        kept = Kept(parts)
        # The hook keeps tensors alive, which a measurement on a GPU would count.
        with nullcontext() if device == "cuda" else kept:
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = model(batch)
            total = loss.total / loss.count
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return sum(weights.values()) + 12 * trained + kept.total
