"""`speechllm gpu`: all measurements that need a GPU, on one page: the kernels' correctness and bandwidth, recipes of
real width, the memory of the published systems beside its estimate, the speed of steps, what lies between them, the
speed of decoding; and which of the targets are reached."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from speechllm_plugin.errors import UserError

if TYPE_CHECKING:
    from speechllm_tools.gpu.targets import Section, Verdict

STAGES = ("kernels", "recipes", "memory", "step", "gaps", "decode")
_SHAPES = {"cif": "2,16,8", "ctc-collapse": "2,16,8,5"}
"""The kernels, with the shape of a tiny run."""
_TINY_KERNELS = ("--only", "torch", "--no-gate-matrix", "--seconds", "0.01")
_TINY_SYSTEMS = (
    "--widths", "tiny", "--clips", "1", "0.5", "--tokens", "3", "--rounds", "1", "--only", "cached", "granite",
)  # fmt: skip
_BATCHES = ("4", "10", "16")
"""Clips in a step."""
EPILOG = """\
Everything is random: nothing is downloaded. It takes 40 GB of disk and a GPU of 80 GB or more, and by estimate an hour
or two. The exit status is 1 where a part failed or a target is missed.

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
    # Imported here, so that without a GPU the command ends before importing transformers.
    from speechllm_tools.gpu.targets import Section

    sections: list[Section] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for stage in options.stages:
            report(f"{stage} ...")
            try:
                sections.append(_stage(stage, work, options))
            except Exception as error:  # a failed stage does not stop the others
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
                sections.append(Section(f"## {stage.capitalize()}\n\nFAILED: {reason}", failed=True))
                report(f"{stage}: FAILED: {reason}")
            page.write_text(_page(name, sections, judged=not options.tiny), encoding="utf-8")
    print(page)
    return exit_status(sections, judged=not options.tiny)


def exit_status(sections: Sequence[Section], *, judged: bool) -> int:
    """:param judged: whether a missed target counts."""
    missed = any(not verdict.reached for section in sections for verdict in section.verdicts)
    return int(any(section.failed for section in sections) or (judged and missed))


def _page(name: str, sections: Sequence[Section], *, judged: bool) -> str:
    from speechllm_tools.bench.report import footer
    from speechllm_tools.gpu.targets import table

    texts = [f"# What a GPU shows: {name}", *(section.text for section in sections)]
    if verdicts := [verdict for section in sections for verdict in section.verdicts]:
        note = "" if judged else "They are those of a GPU: here they only show that the command runs.\n\n"
        texts.append(f"## Targets\n\n{note}{table(verdicts)}")
    return "\n\n".join([*texts, footer()]) + "\n"


def _stage(stage: str, work: Path, options: argparse.Namespace) -> Section:
    from speechllm_tools.gpu import gaps, memory, recipes
    from speechllm_tools.gpu.targets import Section, step_verdicts
    from speechllm_tools.gpu.training import Workplace

    if stage == "kernels":
        return _kernels(work, options)
    own: dict[str, Callable[[Workplace], Section]] = {"recipes": recipes.run, "memory": memory.run, "gaps": gaps.run}
    if stage in own:
        return own[stage](Workplace(work, options.device, options.tiny, report))
    words = list(_TINY_SYSTEMS if options.tiny else ("--widths", "large"))
    if stage == "step":
        words += ["--batches", *(("1", "2") if options.tiny else _BATCHES)]
    printed, figures = _bench(stage, work, options, words)
    verdicts: list[Verdict] = step_verdicts(figures["results"]) if stage == "step" else []
    return Section(re.sub(r"^# ", "## ", printed), verdicts)


def _kernels(work: Path, options: argparse.Namespace) -> Section:
    from speechllm_tools.gpu.targets import Section, kernel_verdicts

    texts, results, failed = ["## Kernels"], [], False
    for name, shape in _SHAPES.items():
        words = ["--shape", shape, *_TINY_KERNELS] if options.tiny else []
        try:
            printed, figures = _bench(name, work, options, words)
        except UserError as error:  # the other kernel is measured all the same
            failed = True
            texts.append(f"FAILED: {error}")
            report(texts[-1])
            continue
        texts.append(printed)
        results += figures["results"]
        failed = failed or any(result["status"] == "FAILED" and not result["baseline"] for result in results)
    return Section("\n\n".join(texts), kernel_verdicts(results), failed)


def _bench(
    name: str, work: Path, options: argparse.Namespace, arguments: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """
    :returns: what the benchmark has printed, and the document of its figures, if it writes one.
    :raises UserError: the benchmark failed.
    """
    words, file = ["bench", name, "--device", options.device, *arguments], work / f"{name}.json"
    result = subprocess.run(
        [sys.executable, "-m", "speechllm_tools.cli", *words, "--json", str(file)], env=dict(os.environ),
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    # 1 where a kernel is wrong: its page and its figures are there.
    if result.returncode not in (0, 1) or not result.stdout.strip():
        raise UserError(f"speechllm {' '.join(words)}: exit status {result.returncode}\n{result.stdout}")
    printed = result.stdout.strip()
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return (printed if name in STAGES else f"    speechllm {' '.join(words)}\n\n{printed}"), figures


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
