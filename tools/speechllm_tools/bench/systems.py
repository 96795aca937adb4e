"""Speech LLMs of equal widths with random weights: our own, and classes of transformers that a user might choose.

Each reads the same clips and is trained on the same number of target tokens. Encoder and LLM are frozen: a step trains
only the part between them.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable, Sequence

import torch

from speechllm_plugin.errors import UserError
from speechllm_tools.bench.ours import Ours
from speechllm_tools.bench.peers import GraniteSpeech, Qwen2Audio, Voxtral
from speechllm_tools.bench.system import WIDTHS, Shared, System, Widths

SYSTEMS: dict[str, Callable[[Shared], System]] = {
    "ours, padded to 30 s": lambda shared: Ours("ours, padded to 30 s", shared),
    "ours, trimmed": lambda shared: Ours("ours, trimmed", shared, trim=True),
    "ours, not padded": lambda shared: Ours("ours, not padded", shared, pad_to_30s=False),
    "ours, cached": lambda shared: Ours("ours, cached", shared, trim=True, cached=True),
    "ours, cached, padded rows": lambda shared: Ours(
        "ours, cached, padded rows", shared, trim=True, cached=True, packed=False
    ),
    Voxtral.name: Voxtral,
    Qwen2Audio.name: Qwen2Audio,
    GraniteSpeech.name: GraniteSpeech,
}
"""Makers of the systems by name; each takes seconds."""


def dtypes_of(options: argparse.Namespace, device: str) -> list[torch.dtype]:
    """What `--dtype` names, else bfloat16 on a GPU and float32 on a CPU."""
    names = options.dtype or ["bfloat16" if device == "cuda" else "float32"]
    return [getattr(torch, name) for name in dict.fromkeys(names)]


def systems_of(options: argparse.Namespace, device: str) -> list[System]:
    """
    :param options: options of `speechllm bench step` or `decode`.
    :returns: the systems that `--only` names, or all, in each precision.
    :raises UserError: an option is outside its range, or names no system.
    """
    if not all(0.5 <= seconds <= 30 for seconds in options.clips):
        raise UserError(f"--clips: found {options.clips}, expected lengths of 0.5 to 30 seconds")
    for name in ("tokens", "rounds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}: found {getattr(options, name)}, expected at least 1")
    words = [word.lower() for word in options.only or [""]]
    chosen = [make for name, make in SYSTEMS.items() if any(word in name.lower() for word in words)]
    if not chosen:
        raise UserError(f"--only: found {' '.join(options.only)}, expected words of {'; '.join(SYSTEMS)}")
    widths = WIDTHS[options.widths]
    return [
        system for dtype in dtypes_of(options, device) for system in _systems_in(dtype, widths, device, chosen)
    ]


def _systems_in(
    dtype: torch.dtype, widths: Widths, device: str, chosen: Sequence[Callable[[Shared], System]]
) -> list[System]:
    torch.manual_seed(0)
    own = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            shared = Shared(widths)
            systems = [make(shared if device == "cuda" else Shared(widths)) for make in chosen]
    finally:
        torch.set_default_dtype(own)
    for system in systems:
        system.dtype = dtype
    return systems


def clock() -> float:
    """The time in seconds, after the GPU, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def command_of(options: argparse.Namespace, device: str) -> str:
    """The command as a page of results shows it."""
    where = "--device cuda" if device == "cuda" else f"--threads {torch.get_num_threads()}"
    words = [f"speechllm bench {options.benchmark} {where} --rounds {options.rounds}"]
    if options.widths != "small":
        words.append(f"--widths {options.widths}")
    if options.dtype:
        words.append(f"--dtype {' '.join(options.dtype)}")
    if options.only:
        words.append(f"--only {shlex.join(options.only)}")
    return " ".join(words)
