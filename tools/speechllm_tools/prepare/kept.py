"""Keeps results on disk while a command works, so that it goes on from them after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_tools.prepare.writing import told


class KeptResults:
    """A line of JSON for each result, by its key; the first line is a mark of everything that all results depend on."""

    def __init__(self, file: Path, mark: str) -> None:
        """
        :param mark: hash of everything that results depend on beside their key; results with another mark are dropped.
        :raises UserError: the place cannot be written.
        """
        self._file = file
        self.found: dict[str, Any] = {}
        header = json.dumps({"mark": mark})
        lines = self._valid_lines(header)
        # The file is written again, since its last line may be incomplete.
        write_text_atomically(file, "\n".join([header, *lines]) + "\n")
        with told(file):
            self._stream: TextIO = file.open("a", encoding="utf-8")

    def add(self, results: Mapping[str, Any]) -> None:
        """:param results: plain values for JSON, by key.
        :raises UserError: the disk is full."""
        self.found.update(results)
        with told(self._file):
            self._stream.writelines(json.dumps([key, value]) + "\n" for key, value in results.items())
            self._stream.flush()

    def close(self) -> None:
        self._stream.close()

    def remove(self) -> None:
        """Removes the file, once the results have been used completely."""
        self.close()
        self._file.unlink(missing_ok=True)

    def _valid_lines(self, header: str) -> list[str]:
        if not self._file.is_file():
            return []
        with told(self._file):
            first, *lines = self._file.read_text(encoding="utf-8", errors="replace").split("\n")
        if first != header:
            return []
        valid = []
        for line in lines:
            try:
                key, value = json.loads(line)
            except (ValueError, TypeError):
                continue  # an incomplete line of a killed process
            self.found[key] = value
            valid.append(line)
        return valid
