"""A cache of segments' scores on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

Segment = tuple[str, str, str]
"""Source, hypothesis, reference."""


def default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speechllm" / "comet"


class ScoreCache:
    """One file for each checkpoint, encoder and precision, with a line for each segment, by the hash of its texts."""

    def __init__(self, folder: Path, made_by: Mapping[str, str]) -> None:
        self._made_by = json.dumps(made_by, sort_keys=True)
        self._file = folder / f"{hashlib.sha256(self._made_by.encode()).hexdigest()[:32]}.jsonl"
        self._entries: dict[str, tuple[float, bool]] = {}
        if self._file.is_file():
            for line in self._file.read_text(encoding="utf-8").splitlines()[1:]:
                try:
                    key, score, cut = json.loads(line)
                except ValueError:
                    continue  # an incomplete line of a killed process
                self._entries[key] = (float(score), bool(cut))

    def find(self, segment: Segment) -> tuple[float, bool] | None:
        """The score of a segment, and whether one of its texts was cut."""
        return self._entries.get(_key(segment))

    def add(self, scores: Mapping[Segment, tuple[float, bool]]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        new = not self._file.is_file()
        with open(self._file, "a", encoding="utf-8") as file:
            # The line end completes a line that a kill cut off.
            file.write(f"{self._made_by}\n" if new else "\n")
            for segment, (score, cut) in scores.items():
                file.write(json.dumps([_key(segment), score, cut]) + "\n")
                self._entries[_key(segment)] = (score, cut)


def _key(segment: Segment) -> str:
    return hashlib.sha256(json.dumps(segment).encode()).hexdigest()
