"""Runs the recipe in a process of its own and reports its progress."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_tools.demo.launch import run_together
from speechllm_tools.demo.pace import Pace

CONSOLE = "console.log"
"""Name of the file, in the output directory, with the output of a watched recipe."""
_LOADING = 15.0
"""Seconds before a run's first step: imports and models."""


def run_recipe(
    action: str, output_dir: Path, *arguments: str, processes: int = 1, watch: Callable[[], None] | None = None
) -> None:
    """
    :param watch: is called every second while the recipe's output goes to a file. None = the user sees the recipe's
        log.
    :raises UserError: the recipe failed.
    """
    command = [sys.executable, "-m", "speechllm_recipes", "recipe", "run", "speech_llm", action, str(output_dir)]
    if watch is not None or not sys.stdout.isatty():
        command.append("--no-rich")
    command += arguments
    if watch is None:
        status = run_together(command, processes)
    else:
        output_dir.mkdir(parents=True, exist_ok=True)
        with (output_dir / CONSOLE).open("w") as console:
            status = run_together(command, processes, console=console, watch=watch)
        if status:
            print("\n" + "\n".join((output_dir / CONSOLE).read_text().splitlines()[-20:]), file=sys.stderr)
    if status:
        raise UserError(f"`{action}` ended with status {status}; its log is {output_dir}/logs/rank_0.log")


class TrainingProgress:
    """Progress by a run's metrics. Times of steps differ tenfold: with encoding, with CTC alone, with the LLM."""

    def __init__(self, run: Path, config_file: Path, train_clips: int, pace: Pace) -> None:
        self._metrics = run / "metrics" / "train.jsonl"
        config: Any = parse_yaml(config_file.read_text(encoding="utf-8"))
        self._num_steps: int = config["regime"]["num_steps"]
        self._align_steps: int = config["model"]["config_overrides"]["ctc"]["align_steps"]
        clips = config["dataset"]["batch_size"] * config["trainer"]["grad_accumulation"]["num_batches"]
        self._first_epoch = train_clips / clips
        self._encoding = clips * pace.encoded_clip
        self._pace = pace

    def seconds(self, step_nr: int) -> float:
        """Expected seconds until this step is over."""
        aligned = min(step_nr, self._align_steps)
        encoding = min(step_nr, self._first_epoch) * self._encoding
        return _LOADING + encoding + aligned * self._pace.align_step + (step_nr - aligned) * self._pace.llm_step

    @property
    def total_seconds(self) -> float:
        return self.seconds(self._num_steps)

    def state(self) -> tuple[str, float]:
        """The text of a progress line, and the share of the time that has passed."""
        last = self._last()
        step_nr = int(last.get("Step", 0))
        losses = "".join(f", {name} {last[name]:.3f}" for name in ("CTC Loss", "NLL Loss") if name in last)
        share = self.seconds(step_nr) / self.total_seconds if step_nr else 0.0
        return f"step {step_nr}/{self._num_steps}{losses}", min(share, 0.999)

    def _last(self) -> dict[str, Any]:
        try:
            lines = self._metrics.read_text().splitlines()
        except FileNotFoundError:
            return {}
        for line in reversed(lines):
            try:
                last: dict[str, Any] = json.loads(line)
                return last
            except ValueError:  # still being written
                continue
        return {}


class TimedProgress:
    """Progress of work that reports nothing until its end."""

    def __init__(self, expected_seconds: float) -> None:
        self._expected = expected_seconds
        self._start = time.monotonic()

    def state(self) -> tuple[str, float]:
        return "", min(0.999, (time.monotonic() - self._start) / self._expected)
