"""Keeps hypotheses on disk while a split is decoded, so that a killed evaluation goes on from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.log import log

_FILES = "decoded.rank_{}.jsonl"


class KeptHypotheses:
    """One file for each process, one line for each batch. Each process reads all files, since the number of processes
    may have changed."""

    def __init__(self, folder: Path, rank: int, made_by: Mapping[str, Any]) -> None:
        """
        :param folder: folder of the split's results.
        :param made_by: everything that the hypotheses depend on; hypotheses with other values are dropped.
        """
        self._folder = folder
        self._file = folder / _FILES.format(rank)
        self._header = json.dumps({"made_by": _digest(made_by)})
        self._entries: dict[tuple[int, ...], dict[str, Any]] = {}
        own: list[str] = []
        for file in sorted(folder.glob(_FILES.format("*"))):
            lines = self._valid_lines(file)
            own = lines if file == self._file else own
        if self._entries:
            clips = sum(map(len, self._entries))
            log.info("{}: {:,} clips have been decoded before, by the same system; their hypotheses stand.",
                     folder, clips)
        # The file is written again, since its last line may be incomplete.
        write_text_atomically(self._file, "\n".join([self._header, *own]) + "\n")
        self._stream: TextIO = self._file.open("a", encoding="utf-8")

    def find(self, batch: SpeechTextBatch) -> dict[str, Any] | None:
        """The results that `add` got for the same clips; None = they have not been decoded."""
        return self._entries.get(tuple(batch.rows))

    def add(self, batch: SpeechTextBatch, results: Mapping[str, Any]) -> None:
        """:param results: plain values for JSON."""
        self._stream.write(json.dumps({"rows": batch.rows, **results}, ensure_ascii=False) + "\n")
        self._stream.flush()

    def remove(self) -> None:
        """Removes the files of all processes, once the results are complete."""
        self._stream.close()
        for file in self._folder.glob(_FILES.format("*")):
            file.unlink(missing_ok=True)

    def _valid_lines(self, file: Path) -> list[str]:
        header, *lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        valid: list[str] = []
        if header != self._header:
            log.info("{}: hypotheses of another system, of other data or settings; they are dropped.", file)
            return valid
        for line in lines:
            try:
                entry = json.loads(line)
                self._entries[tuple(entry.pop("rows"))] = entry
            except (ValueError, KeyError, TypeError):
                continue  # an incomplete line of a killed process
            valid.append(line)
        return valid


def _digest(made_by: Mapping[str, Any]) -> str:
    stays = {key: value for key, value in made_by.items() if key != "date_utc"}
    return hashlib.sha256(json.dumps(stays, sort_keys=True, default=str).encode()).hexdigest()
