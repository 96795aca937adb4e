"""Trains, stops, resumes and decodes recipes of real width, as a user runs them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from speechllm_plugin.errors import UserError
from speechllm_tools.gpu.targets import Section
from speechllm_tools.gpu.training import Workplace

SYSTEMS = ("whisper_large_v3.llama31_8b.ctc", "seamless_m4t_v2.llama31_8b.wlq_former")
HEAD = """\
## Recipes

Random weights at real width, as `fairseq2 recipe run speech_llm train` runs them: half of the steps, then the same
command again, which resumes; then `speechllm transcribe` decodes clips that were not trained on. A step's seconds are
the median.
"""
COLUMNS = ("steps", "resumed after", "first loss", "last loss", "seconds a step", "peak GB", "decoded")


def run(place: Workplace, systems: Sequence[str] = SYSTEMS) -> Section:
    manifests = place.clips()
    rows = [f"| system | {' | '.join(COLUMNS)} |", "| --- " + "| ---: " * len(COLUMNS) + "|"]
    failed = False
    for name in systems:
        try:
            rows.append(_row(name, place, manifests))
        except UserError as error:  # the others are tried all the same
            failed = True
            rows.append(f"| {name} | FAILED: {error}{' |' * len(COLUMNS)}")
            place.report(rows[-1])
    return Section("\n".join([HEAD, *rows]), failed=failed)


def _row(name: str, place: Workplace, manifests: dict[str, str]) -> str:
    """:raises UserError: a command failed, or did not do what it should."""
    steps, output = 4 if place.tiny else 50, place.folder / "runs" / name
    for last in (steps // 2, steps):
        place.report(f"{name}: to step {last}")
        regime = {
            "num_steps": last, "checkpoint_every_n_steps": steps // 2, "publish_metrics_every_n_steps": 1,
        }  # fmt: skip
        told = place.train(name, place.configuration(name, manifests, regime=regime), output)
    if f"Resuming from step {steps // 2}" not in " ".join(told.split()):
        raise UserError(f"{name}: the second half of its steps was not resumed from step {steps // 2}")
    lines = [json.loads(line) for line in (output / "metrics" / "train.jsonl").read_text().splitlines()]
    if [line["Step"] for line in lines] != list(range(1, steps + 1)):
        raise UserError(f"{name}: found the steps {[line['Step'] for line in lines]}, expected 1 to {steps}")
    place.report(f"{name}: decoding")
    decoded = place.python("speechllm_tools.cli", "transcribe", manifests["dev"], "--checkpoint", output)
    texts = [line for line in decoded.splitlines() if "\t" in line]
    peaks = [line["Peak Active Device Memory"] for line in lines if "Peak Active Device Memory" in line]
    values = [
        str(steps), str(steps // 2), *(f"{line['NLL Loss']:.2f}" for line in (lines[0], lines[-1])),
        f"{statistics.median(line['Lapse Time'] for line in lines):.2f}",
        f"{max(peaks) / 1e9:.1f}" if peaks else "-",  # only a GPU has a peak
        f"{len(texts)} clips",
    ]  # fmt: skip
    return f"| {name} | {' | '.join(values)} |"
