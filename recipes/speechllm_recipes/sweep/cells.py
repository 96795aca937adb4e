"""A cell on disk: its configuration, its progress and the lock of the processes that work on it."""

from __future__ import annotations

import fcntl
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_recipes.given_keys import given_keys
from speechllm_recipes.sweep.sweep_file import Cell

EVALUATION = "evaluation"
_TRAIN, _EVALUATE, _STATE, _LOCK = "sweep.train.yaml", "sweep.evaluate.yaml", "sweep.json", ".sweep.lock"
LOG = "sweep.log"


@dataclass(frozen=True)
class CellFolder:
    cell: Cell
    folder: Path

    @property
    def train_file(self) -> Path:
        return self.folder / _TRAIN

    @property
    def evaluate_file(self) -> Path:
        return self.folder / _EVALUATE

    @property
    def log(self) -> Path:
        return self.folder / LOG

    def done(self) -> set[str]:
        """The stages, of `train`, `evaluate` and `cascade`, that have ended well."""
        with suppress(OSError, ValueError, TypeError):
            return set(json.loads((self.folder / _STATE).read_text(encoding="utf-8"))["done"])
        return set()

    def mark_done(self, stage: str) -> None:
        write_text_atomically(self.folder / _STATE, json.dumps({"done": sorted({*self.done(), stage})}) + "\n")

    def write_configuration(self) -> None:
        """
        :raises UserError: the cell was begun with another configuration.
        """
        files = {self.train_file: self.cell.train, self.evaluate_file: self.cell.evaluate or {}}
        for file, values in files.items():
            if values is None:
                continue
            text = _yaml(values)
            # The configuration may change until a process has worked on the cell.
            if self.log.is_file() and file.is_file() and file.read_text(encoding="utf-8") != text:
                key, before, now = _first_difference(parse_yaml(file.read_text(encoding="utf-8")) or {}, values)
                raise UserError(
                    f"{file}: the cell was begun with {key} = {before!r}, found {now!r}; expected the same to go on, "
                    "or another output directory"
                )
            write_text_atomically(file, text)

    @contextmanager
    def worked_on(self) -> Iterator[int]:
        """Gives the descriptor of a lock that the processes working on the cell inherit. It is held until the last of
        them has ended, even if this process is killed.

        :raises BlockingIOError: other processes work on the cell.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / _LOCK, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file.fileno()

    def progress(self) -> tuple[int, int | None, float | None]:
        """Steps done, steps in all (None if not given) and the last loss."""
        total = dict(given_keys(self.cell.train or {})).get("regime.num_steps")
        step, loss = 0, None
        with suppress(OSError, ValueError, IndexError):
            line = json.loads((self.folder / "metrics" / "train.jsonl").read_text(encoding="utf-8").splitlines()[-1])
            step, loss = int(line["Step"]), line.get("NLL Loss")
        return step, total, loss

    def last_words(self) -> str:
        """The error in the cell's log, or the last line of the log."""
        with suppress(OSError):
            text = self.log.read_text(encoding="utf-8", errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
            errors = [line for line in lines if "ERROR" in line or "error: " in line or "Error: " in line]
            return (errors or lines or ["no output"])[-1].strip()
        return "no output"


def _yaml(values: Mapping[str, Any]) -> str:
    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.dump(values, stream)
    return stream.getvalue()


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any]:
    earlier, later = dict(given_keys(before)), dict(given_keys(now))
    key = next((key for key in [*earlier, *later] if earlier.get(key) != later.get(key)), "the order of its keys")
    return key, earlier.get(key), later.get(key)
