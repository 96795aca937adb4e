"""Trains, stops, resumes and decodes recipes of real width, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_tools.gpu.parts import write_clips, write_encoder, write_llm

SYSTEMS = ("whisper_large_v3.llama31_8b.ctc", "seamless_m4t_v2.llama31_8b.wlq_former")
HEAD = """\
## Recipes

Random weights at real width, as `fairseq2 recipe run speech_llm train` runs them: half of the steps, then the same
command again, which resumes; then `speechllm transcribe` decodes clips that were not trained on. A step's seconds are
the median.
"""
COLUMNS = ("steps", "resumed after", "first loss", "last loss", "seconds a step", "peak GB", "decoded")
_SMALL_ADAPTER = {"dim": 32, "num_heads": 4, "ffn_dim": 64}


def run(
    folder: Path, device: str, *, tiny: bool, report: Callable[[str], None], systems: Sequence[str] = SYSTEMS
) -> str:
    """
    :param folder: folder for models, clips and runs.
    :param tiny: whether parts have two layers and runs a few steps.
    :returns: the section of the page.
    :raises UserError: a command failed.
    """
    steps, counts = (4, {"train": 12, "dev": 4}) if tiny else (50, {"train": 200, "dev": 16})
    manifests = write_clips(folder / "clips", counts, 2.0 if tiny else 12.0)
    rows = [f"| system | {' | '.join(COLUMNS)} |", "| --- " + "| ---: " * len(COLUMNS) + "|"]
    for name in systems:
        encoder, llm, _ = name.split(".")
        parts = {part: folder / part for part in (encoder, llm)}
        for part, write in ((encoder, write_encoder), (llm, write_llm)):
            if not parts[part].is_dir():
                report(f"{part}: weights are drawn and written")
                write(part, parts[part], device, tiny=tiny)
        rows.append(_row(name, folder, parts, manifests, steps, device, tiny=tiny, report=report))
    return "\n".join([HEAD, *rows])


def _row(
    name: str, folder: Path, parts: dict[str, Path], manifests: dict[str, str], steps: int, device: str, *,
    tiny: bool, report: Callable[[str], None],
) -> str:  # fmt: skip
    output = folder / "runs" / name
    encoder, llm, adapter = name.split(".")
    overrides: dict[str, Any] = {
        "encoder": {"arch": None, "config": {"path": str(parts[encoder])}},
        "llm": {"arch": None, "config": {"path": str(parts[llm])}},
    }
    if tiny:
        overrides["adapter"] = {"config": _SMALL_ADAPTER}
    for last in (steps // 2, steps):
        report(f"{name}: to step {last}")
        config = {
            "model": {"arch": name, "config_overrides": overrides},
            "dataset": {"batch_size": 4, "valid_splits": [], "config_overrides": {"manifests": manifests}},
            "decoding": {"tokens_per_second": 6.0},
            "regime": {
                "num_steps": last, "checkpoint_every_n_steps": steps // 2, "publish_metrics_every_n_steps": 1,
            },
        }  # fmt: skip
        file = folder / f"{name}.yaml"
        file.write_text(json.dumps(config), encoding="utf-8")
        recipe = ("speechllm_recipes", "recipe", "run", "speech_llm", "train", output, "--no-rich")
        told = _python(device, *recipe, "--config-file", file)
    if f"Resuming from step {steps // 2}" not in " ".join(told.split()):
        raise UserError(f"{name}: the second half of its steps was not resumed from step {steps // 2}")
    lines = [json.loads(line) for line in (output / "metrics" / "train.jsonl").read_text().splitlines()]
    if [line["Step"] for line in lines] != list(range(1, steps + 1)):
        raise UserError(f"{name}: found the steps {[line['Step'] for line in lines]}, expected 1 to {steps}")
    report(f"{name}: decoding")
    decoded = _python(device, "speechllm_tools.cli", "transcribe", manifests["dev"], "--checkpoint", output)
    texts = [line for line in decoded.splitlines() if "\t" in line]
    peaks = [line["Peak Active Device Memory"] for line in lines if "Peak Active Device Memory" in line]
    values = [
        str(steps), str(steps // 2), *(f"{lines[place]['NLL Loss']:.2f}" for place in (0, -1)),
        f"{statistics.median(line['Lapse Time'] for line in lines):.2f}",
        f"{max(peaks) / 1e9:.1f}" if peaks else "-",  # only a GPU has a peak
        f"{len(texts)} clips",
    ]  # fmt: skip
    return f"| {name} | {' | '.join(values)} |"


def _python(device: str, module: str, *arguments: object) -> str:
    """
    :returns: the output of the module.
    :raises UserError: the module failed.
    """
    hidden = {} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], env={**os.environ, "HF_HUB_OFFLINE": "1", **hidden},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode != 0:
        raise UserError(f"{_short([module, *arguments])}: {last_line(result.stderr or result.stdout)}")
    return result.stdout + result.stderr


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"^.* ERROR: fairseq2 - ", "", lines[-1]) if lines else "no output"


def _short(words: Sequence[object]) -> str:
    return " ".join(str(word) for word in words[:6])
