"""Measures the memory of a training step of the published systems beside the estimate of `speechllm inspect`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
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
from speechllm_tools.bench.out_of_memory import free_memory, runs_out
from speechllm_tools.gpu.parts import hf_config, make_tokenizer
from speechllm_tools.gpu.targets import Section, memory_verdict
from speechllm_tools.gpu.training import Workplace

SYSTEMS = [".".join(parts) for parts in product(*GRID)]
HEAD = """\
## Memory

A step of each system of arXiv 2409.17044 with random weights: {clips} clips of {seconds:g} s, {tokens} target tokens
each, AdamW, the trained part under autocast, no dropout. The estimate is that of `speechllm inspect` for as many
vectors as the adapter made. {how}
"""
COLUMNS = ("vectors", "estimated GB", "measured GB", "measured by estimated", "activation checkpointing")


@dataclass(frozen=True)
class Step:
    """What a step takes, in bytes."""

    vectors: int
    """Of a clip."""
    estimated: int
    measured: int
    recompute: bool
    """Whether with activation checkpointing."""

    @property
    def ratio(self) -> float:
        return self.measured / self.estimated

    def cells(self) -> list[str]:
        return [
            str(self.vectors), f"{self.estimated / 1e9:.3g}", f"{self.measured / 1e9:.3g}", f"{self.ratio:.2f}",
            "yes" if self.recompute else "no",
        ]  # fmt: skip


def run(place: Workplace, systems: Sequence[str] = SYSTEMS) -> Section:
    clips, seconds, tokens = (2, 1.0, 8) if place.tiny else (10, 10.0, 30)
    rows = [f"| system | {' | '.join(COLUMNS)} |", "| --- " + "| ---: " * len(COLUMNS) + "|"]
    ratios: dict[str, float | None] = {}
    for name in systems:
        config = config_of(name, place.folder, tiny=place.tiny)
        step = _tried(partial(measure, config, clips, seconds, tokens, place.device))
        cells = ["out of memory", *["-"] * (len(COLUMNS) - 1)] if step is None else step.cells()
        ratios[name] = None if step is None else step.ratio
        rows.append(f"| {name} | {' | '.join(cells)} |")
        place.report(rows[-1])
    free_memory()  # stages that follow have processes of their own
    how = (
        "Measured is the most that PyTorch had allocated on the GPU." if place.device == "cuda" else
        "There is no GPU here, and the parts have two layers: what is measured, the tensors that a\nstep keeps, only "
        "shows that the command runs."
    )  # fmt: skip
    text = "\n".join([HEAD.format(clips=clips, seconds=seconds, tokens=tokens, how=how), *rows])
    return Section(text, [memory_verdict(ratios)])


def _tried(work: Callable[[], Step]) -> Step | None:
    """None where memory was too short."""
    steps: list[Step] = []
    runs_out(lambda: steps.append(work()))
    return steps[0] if steps else None


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


def measure(config: SpeechLlmConfig, clips: int, seconds: float, tokens: int, device: str) -> Step:
    free_memory()
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
    measured = _step_bytes(model, _batch(model, clips, seconds, tokens), device)
    hook.remove()
    mean = round(sum(vectors) / len(vectors))
    estimated = costs.estimate(skeleton, seconds, mean, tokens).gpu_bytes(clips, recompute=recompute)
    return Step(mean, estimated, measured, recompute)


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


def _step_bytes(model: SpeechLlm, batch: SpeechTextBatch, device: str) -> int:
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
