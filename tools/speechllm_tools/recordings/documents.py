"""Writes a document for each recording, to standard output, or to a directory with files from which a command goes
on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.recordings.formats import SUFFIXES, Unit, render
from speechllm_plugin.recordings.transcript import Transcript
from speechllm_tools.recordings.kept import FOLDER, KeptPieces


class Documents:
    def __init__(self, folder: Path | None, name: str, unit: Unit) -> None:
        """
        :param folder: folder of the documents; None = standard output.
        :param name: name of the format.
        """
        self._folder, self._format, self._unit = folder, name, unit

    def kept(self, place: str, decided_by: Mapping[str, Any]) -> KeptPieces | None:
        """The kept texts of a recording; None on standard output.

        :raises UserError: they cannot be read.
        """
        if self._folder is None:
            return None
        return KeptPieces(self._folder / FOLDER / f"{place}.jsonl", decided_by)

    def write(self, place: str, transcript: Transcript) -> None:
        """
        :raises UserError: the place cannot be written.
        """
        document = render(transcript, self._format, self._unit)
        if self._folder is None:
            sys.stdout.write(document)
            sys.stdout.flush()
            return
        file = self._folder / f"{place}.{SUFFIXES.get(self._format, self._format)}"
        if not file.is_file() or file.read_bytes() != document.encode():
            write_text_atomically(file, document)
