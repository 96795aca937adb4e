"""`speechllm gpu`: all measurements that need a GPU, on one page: the kernels' correctness and bandwidth, recipes of
real width, the memory of the published systems beside its estimate, and the speed of steps and of decoding."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from speechllm_plugin.errors import UserError

STAGES = ("kernels", "recipes", "memory", "step", "decode")
_QUICK = ("--only", "torch", "--no-gate-matrix", "--seconds", "0.01")
"""Options for the kernels in a tiny run."""
EPILOG = """\
Everything is random: nothing is downloaded. It takes 40 GB of disk and a GPU of 80 GB or more, and about an hour.

examples:
  speechllm gpu
  speechllm gpu --stages kernels memory
  speechllm gpu --device cpu --tiny --output /tmp    that the command runs, on a machine without a GPU
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = __doc__, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="default: all")
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("benchmarks/results"),
                        help="folder of the page (default: benchmarks/results)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for models and runs, kept (default: a folder that is "
                        "deleted in the end)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--tiny", action="store_true", help="parts of two layers and a few steps; for cpu")


def run(options: argparse.Namespace) -> int:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: found no CUDA device, expected one; nothing was measured")
    if (options.device == "cpu") != options.tiny:
        raise UserError("--tiny: it goes with --device cpu, and --device cpu with it")
    if not options.output.is_dir():
        raise UserError(f"--output: found no folder {options.output}, expected one")
    name = torch.cuda.get_device_name() if options.device == "cuda" else "a CPU, tiny"
    page = options.output / f"gpu-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.md"
    sections, failed = [f"# What a GPU shows: {name}"], False
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for stage in options.stages:
            report(f"{stage} ...")
            try:
                sections.append(_stage(stage, work, options))
            except Exception as error:  # a failed stage does not stop the others
                failed = True
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
                sections.append(f"## {stage.capitalize()}\n\nFAILED: {reason}")
                report(f"{stage}: FAILED: {reason}")
            page.write_text("\n\n".join([*sections, _footer()]) + "\n", encoding="utf-8")
    print(page)
    return 1 if failed else 0


def _stage(stage: str, work: Path, options: argparse.Namespace) -> str:
    # Imported here, so that without a GPU the command ends before importing transformers.
    from speechllm_tools.gpu import memory, recipes

    own: dict[str, Callable[..., str]] = {"recipes": recipes.run, "memory": memory.run}
    if stage in own:
        return own[stage](work, options.device, tiny=options.tiny, report=report)
    if stage == "kernels":
        shapes = {"cif": ["--shape", "2,16,8"], "ctc-collapse": ["--shape", "2,16,8,5"]}
        tables = [
            _bench(name, options.device, *((*shape, *_QUICK) if options.tiny else ()))
            for name, shape in shapes.items()
        ]
        return "\n\n".join(["## Kernels", *tables])
    size = ["--clips", "1", "0.5", "--tokens", "3", "--rounds", "1"] if options.tiny else ["--widths", "large"]
    size += ["--only", "cached", "granite"] if options.tiny else []
    page = _bench(stage, options.device, *size)
    return re.sub(r"^# ", "## ", page)


def _bench(name: str, device: str, *arguments: str) -> str:
    """:raises UserError: the benchmark failed, or a kernel was wrong."""
    words = ["bench", name, "--device", device, *arguments]
    result = subprocess.run(
        [sys.executable, "-m", "speechllm_tools.cli", *words], env=dict(os.environ), stdout=subprocess.PIPE, text=True,
        check=False,
    )  # fmt: skip
    if result.returncode != 0:
        raise UserError(f"speechllm {' '.join(words)}: exit status {result.returncode}\n{result.stdout}")
    printed = result.stdout.strip()
    return printed if name in STAGES else f"    speechllm {' '.join(words)}\n\n{printed}"


def _footer() -> str:
    from speechllm_tools.bench.report import footer

    return footer()


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
