"""Reads Common Voice's tables, for two corpora."""

from __future__ import annotations

import argparse
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from sys import intern

from speechllm_tools.prepare.text_files import read_fields, stem_of

UNQUOTED = "sentences whose CSV quoting was undone"
_COLUMNS = ("client_id", "path", "sentence")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


@dataclass(frozen=True)
class Clip:
    sentence: str
    speaker: str


def clips_of(table: Path, wanted: Container[str]) -> dict[str, Clip]:
    """Clips by their file's name, without the ending that some releases write. Columns are found by name: there are 8
    to 13, depending on the release.

    :param wanted: names of the clips to find.
    :raises UserError: there is no such table, or it has other columns.
    """
    clips = {}
    for _, row in read_fields(table, _COLUMNS):
        if row is not None and (name := stem_of(row[1])) in wanted:
            clips[name] = Clip(sentence=row[2], speaker=intern(row[0]))
    return clips


def check_clips(table: Path) -> None:
    """
    :raises UserError: as `clips_of`.
    """
    next(read_fields(table, _COLUMNS), None)


def add_unquote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--unquote", action="store_true",
        help="undo quotation marks around whole sentences, with doubled ones inside, which older releases of Common "
        "Voice took over from CSV files",
    )  # fmt: skip


def unquote(sentence: str) -> str:
    """`"A ""b"" c"` -> `A "b" c`. A sentence that is not quoted as a whole stays as it is. So does `"Yes."`, which may
    be speech in quotation marks: only a doubled mark shows the quoting of CSV."""
    match = _QUOTED.fullmatch(sentence)
    return match[1].replace('""', '"') if match is not None and '""' in match[1] else sentence
