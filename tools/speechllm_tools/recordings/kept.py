"""Keeps texts of pieces on disk: a killed command goes on where it was, and another format needs no decoding.

Each recording has a file `.pieces/NAME.jsonl` in the output directory: a line with everything that decides the texts, a
line for each piece, and a last line when the recording has ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from speechllm_plugin.alignment.timed_text import Timed
from speechllm_plugin.errors import UserError
from speechllm_plugin.recordings.transcript import PieceText

FOLDER = ".pieces"


class KeptPieces:
    """The known texts of one recording, to which new ones are added."""

    def __init__(self, file: Path, decided_by: Mapping[str, Any]) -> None:
        """
        :param decided_by: the recording and all settings; a file with other values is begun anew.
        :raises UserError: the file cannot be read or written.
        """
        self._file, self._decided_by = file, json.loads(json.dumps(decided_by))
        self._stream: BinaryIO | None = None
        self.texts: list[PieceText] = []
        self.seconds: float | None = None
        """Length of the recording, once it has ended."""
        self.is_other = False
        """Whether the file existed with other settings."""
        self._valid = self._read()

    def _read(self) -> int:
        """Reads the file; gives the number of its valid bytes."""
        try:
            data = self._file.read_bytes()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise UserError(f"{self._file}: cannot be read ({error.strerror}), expected a readable file") from None
        valid = 0
        # An incomplete last line was being written when the command was killed.
        for number, line in enumerate(data.split(b"\n")[:-1]):
            try:
                values = json.loads(line)
                if number == 0:
                    if values != self._decided_by:
                        self.is_other = True
                        return 0
                elif "seconds" in values:
                    self.seconds = float(values["seconds"])
                else:
                    place = int(values["piece"])
                    if place > len(self.texts):
                        break
                    self.texts[place:] = [_piece(values)]
                    self.seconds = None
            except (ValueError, TypeError, KeyError):
                break
            valid += len(line) + 1
        return valid

    def add(self, number: int, text: PieceText) -> None:
        """
        :param number: number of the piece, from 0 on; a known number replaces this piece and all later ones.
        :raises UserError: the disk is full, or the place cannot be written.
        """
        spans = {
            name: None if value is None else [[span.text, span.start, span.end] for span in value]
            for name, value in (("segments", text.segments), ("words", text.words))
        }
        times = {"start": text.start, "end": text.end, "shared": text.shared}
        self._write({"piece": number, **times, "placed": text.placed, **spans})

    def end(self, seconds: float) -> None:
        """
        :param seconds: length of the recording.
        :raises UserError: as `add`.
        """
        if self.seconds is None:
            self._write({"seconds": seconds})
        self.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _write(self, values: Mapping[str, Any]) -> None:
        try:
            if self._stream is None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._file.open("r+b" if self._valid else "wb")
                self._stream.truncate(self._valid)
                self._stream.seek(self._valid)
                if not self._valid:
                    self._stream.write(_line(self._decided_by))
            self._stream.write(_line(values))
            self._stream.flush()
        except OSError as error:
            raise UserError(f"{self._file}: cannot be written ({error.strerror}), expected a writable place") from None


def _line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values) + "\n").encode()


def _piece(values: Mapping[str, Any]) -> PieceText:
    segments, words = (
        None
        if values[name] is None
        else tuple(Timed(str(text), float(start), float(end)) for text, start, end in values[name])
        for name in ("segments", "words")
    )
    return PieceText(
        float(values["start"]),
        float(values["end"]),
        float(values["shared"]),
        segments or (),
        words,
        float(values["placed"]),
    )
