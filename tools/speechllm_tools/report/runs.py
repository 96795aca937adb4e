"""Reads from disk how each run was trained, what it cost and how fast it decodes."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.files.yaml_text import parse_yaml


@dataclass(frozen=True)
class Run:
    name: str
    folder: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Lines of `metrics/train.jsonl`."""
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Content of each `scores.json` (`scores` and `provenance`) by set."""
    facts: dict[str, Any] | None = None
    """Output of `speechllm inspect`; None if the run cannot be inspected, for instance without its frozen models."""

    @property
    def minutes(self) -> float | None:
        """Minutes of training."""
        return self.lines[-1]["Total Time"] / 60 if self.lines and "Total Time" in self.lines[-1] else None

    @property
    def steps(self) -> float | None:
        return self.lines[-1]["Step"] if self.lines else None

    @property
    def learning_rate(self) -> float | None:
        """The highest learning rate of the configured schedule."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            config: Any = parse_yaml((self.folder / "config.yaml").read_text(encoding="utf-8"))
            return float(config["optimizer"]["config"]["lr"])
        return None

    def mean(self, key: str) -> float | None:
        """The mean of one figure of the evaluation over its sets."""
        values = [entry["scores"][key] for entry in self.scores.values() if entry["scores"].get(key) is not None]
        return sum(values) / len(values) if values else None


def find_runs(folder: Path) -> list[Path]:
    """The run directories with an evaluation at or below `folder`: the cells of a sweep, or a single run.

    :raises UserError: there is no evaluation.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: found no such directory, expected a sweep's output or a run")
    found = [one for one in sorted(folder.iterdir()) if one.is_dir() and _is_run(one)]
    if not found and _is_run(folder):
        found = [folder]
    if not found:
        raise UserError(f"{folder}: found no evaluated runs in it, expected a sweep's output or a run")
    return found


def _is_run(folder: Path) -> bool:
    return any(folder.glob("evaluation/*/hypotheses.tsv")) or any(folder.glob("*/hypotheses.tsv"))


def read_run(name: str, folder: Path) -> Run:
    lines: list[dict[str, Any]] = []
    with suppress(OSError):
        for line in (folder / "metrics" / "train.jsonl").read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                lines.append(json.loads(line))
    scores = {}
    for file in sorted([*folder.glob("evaluation/*/scores.json"), *folder.glob("*/scores.json")]):
        with suppress(OSError, ValueError):
            scores[file.parent.name] = json.loads(file.read_text(encoding="utf-8"))
    return Run(name, folder, lines, scores, _facts(folder))


def _facts(folder: Path) -> dict[str, Any] | None:
    """The facts, kept in the run's directory because building a system takes seconds."""
    kept = folder / "inspect.json"
    with suppress(OSError, ValueError):
        loaded: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return loaded
    if not (folder / "config.yaml").is_file():
        return None
    command = [sys.executable, "-m", "speechllm_tools.cli", "inspect", str(folder), "--json"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        return None
    write_text_atomically(kept, result.stdout)
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts
