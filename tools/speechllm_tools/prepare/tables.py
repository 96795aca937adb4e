"""Reads tables of all kinds row by row, with the names of their columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.tsv import read_table
from speechllm_tools.prepare.lhotse_cuts import read_cuts, read_shar, shards_in
from speechllm_tools.prepare.parquet import read_parquet
from speechllm_tools.prepare.text_files import RAGGED, header_of, read_lines, read_tsv

NO_OBJECT = "line that is no JSON object"
OURS = ("id", "audio", "channel", "offset", "duration", "tgt_text", "src_text", "speaker", "src_lang", "tgt_lang")


@dataclass(frozen=True)
class Format:
    """The format of a table."""

    kind: Literal["csv", "tsv", "jsonl", "parquet", "cuts", "shar"]
    columns: Mapping[str, tuple[str, ...]]
    """Names in the table for each of our columns: the first that a row has is used."""
    escapes: bool = False
    """Whether tabs, line ends and backslashes are escaped by a backslash."""
    tarred: bool = False
    """Whether the sound is in tar archives beside the table."""

    @property
    def unit(self) -> str:
        """The unit in which messages count rows."""
        return {"parquet": "row", "cuts": "cut", "shar": "cut"}.get(self.kind, "line")


# Tables count channels from 0 or from 1, or call a column so that names something else: theirs has to be named.
_PLAIN = {name: (name,) for name in OURS if name != "channel"}
_CUTS = {name: (name,) for name in OURS}
_NEMO = {
    "id": ("id",), "audio": ("audio_filepath",), "offset": ("offset",), "duration": ("duration",),
    "tgt_text": ("answer", "text"), "src_text": (), "speaker": ("speaker",), "src_lang": ("source_lang", "lang"),
    "tgt_lang": ("target_lang", "lang"),
}  # fmt: skip
FORMATS: dict[str, Format] = {
    "csv": Format("csv", _PLAIN),
    "tsv": Format("tsv", _PLAIN),
    "jsonl": Format("jsonl", _PLAIN),
    "parquet": Format("parquet", _PLAIN),
    "lhotse": Format("cuts", _CUTS),
    "lhotse-shar": Format("shar", _CUTS),
    "fairseq": Format("tsv", {name: columns for name, columns in _PLAIN.items() if name not in ("offset", "duration")},
                      escapes=True),
    "nemo": Format("jsonl", _NEMO),
    "nemo-tarred": Format("jsonl", _NEMO, tarred=True),
    "slam": Format("jsonl", {
        "id": ("key",), "audio": ("source",), "offset": (), "duration": (), "tgt_text": ("target",), "src_text": (),
        "speaker": ("speaker",), "src_lang": (), "tgt_lang": (),
    }),
}  # fmt: skip
_ENDINGS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl",
            ".parquet": "parquet"}  # fmt: skip
Row = dict[str, Any]


def format_of(file: Path, chosen: str | None) -> Format:
    """
    :raises UserError: the file's ending has no format, or a folder stands where a file is expected.
    """
    name = chosen or _ENDINGS.get(file.suffix.lower())
    if name is None:
        raise UserError(f"{file}: found the ending {file.suffix!r}, expected --format for it")
    if file.is_dir() and FORMATS[name].kind != "shar":
        raise UserError(f"{file}: found a folder, expected a table, or --format lhotse-shar")
    return FORMATS[name]


def files_of(form: Format, file: Path) -> list[Path]:
    """The files that are read for a table, without the sound."""
    return [cuts for _, cuts in shards_in(file)] if form.kind == "shar" else [file]


def table_rows(
    form: Format, file: Path, audio: tuple[str, ...], text: tuple[str, ...]
) -> Iterator[tuple[int, Row | str]]:
    """Rows, or reasons for having none, each with its line or number.

    :param audio: possible names of the column of sound, the likeliest first.
    :param text: possible names of the column `tgt_text`.
    :raises UserError: the file cannot be read, or lacks a column.
    """
    needed = [audio[0], text[0]]
    if form.escapes:
        for record in read_table(file, required=needed, legacy_escapes=True):
            yield record.line, dict(record.fields)
    elif form.kind == "parquet":
        yield from read_parquet(file, needed)
    elif form.kind == "tsv":
        yield from ((number, row if row is not None else RAGGED) for number, row in read_tsv(file, needed))
    elif form.kind == "csv":
        yield from _csv_rows(file, needed)
    elif form.kind == "jsonl":
        yield from _json_rows(file, audio)
    else:
        yield from read_cuts(file) if form.kind == "cuts" else read_shar(file)


def _csv_rows(file: Path, needed: list[str]) -> Iterator[tuple[int, Row | str]]:
    """Rows of a CSV file, whose fields may be quoted, have commas and line ends in them, and any length."""
    csv.field_size_limit(1 << 30)
    try:
        with open(file, encoding="utf-8-sig", newline="") as source:
            reader = csv.reader(source, strict=True)
            names = header_of(file, next(reader, []), needed)
            line = reader.line_num + 1
            for fields in reader:
                if fields:
                    yield line, dict(zip(names, fields, strict=True)) if len(fields) == len(names) else RAGGED
                line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}, line {line}: found a field that is quoted wrongly ({error}), expected CSV") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: found byte 0x{error.object[error.start]:02x}, expected UTF-8") from None


def _json_rows(file: Path, audio: tuple[str, ...]) -> Iterator[tuple[int, Row | str]]:
    """
    :raises UserError: the first object does not name its sound.
    """
    first = True
    for number, text in read_lines(file):
        if not text.strip():
            continue
        try:
            # Numbers stay text, so that seconds become samples without rounding to binary fractions.
            row = json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            yield number, NO_OBJECT
            continue
        if first and not any(name in row for name in audio):
            raise UserError(
                f"{file}, line {number}: found keys {', '.join(map(repr, row))}, expected also {audio[0]!r}"
            )
        first = False
        yield number, row
