"""Reads and writes manifests row by row, with all columns, for the commands that check, count and rearrange them."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from speechllm_plugin.datasets.audio import AudioError, duration, resolve
from speechllm_plugin.datasets.manifest import seconds_of
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.files.remote import is_remote
from speechllm_tools.prepare.report import hashes
from speechllm_tools.prepare.text_files import parse_seconds, read_lines, read_tsv
from speechllm_tools.prepare.writing import told

REQUIRED = ("id", "audio", "tgt_text")


@dataclass(frozen=True)
class Row:
    manifest: Path
    line: int
    fields: dict[str, str]

    def get(self, column: str) -> str:
        return self.fields.get(column, "")

    def wrong(self, column: str, expected: str, found: object = None) -> str:
        """The error about a field."""
        value = repr(self.get(column)) if found is None else found
        return f"{self.manifest}, line {self.line}, column {column!r}: found {value}, expected {expected}"


def add_audio_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--audio-root", metavar="DIR", type=Path, help="folder that relative paths start from (default: the manifest's)"
    )


def read_rows(manifest: Path, required: Sequence[str] = REQUIRED) -> Iterator[Row]:
    """
    :param required: the columns that the manifest must have.
    :raises UserError: there is no such file, it lacks a column, or a row has another number of fields.
    """
    for line, fields in read_tsv(manifest, required):
        if fields is None:
            columns = ", ".join(columns_of(manifest))
            raise UserError(f"{manifest}, line {line}: found another number of fields, expected those of {columns}")
        yield Row(manifest, line, fields)


def columns_of(manifest: Path) -> list[str]:
    return next(read_lines(manifest), (0, ""))[1].split("\t")


def folder_of(manifest: Path, audio_root: Path | None) -> Path:
    """The folder that relative paths of the manifest start from."""
    return manifest.parent if audio_root is None else audio_root


def stated_seconds(row: Row) -> float | None:
    """The clip's length that the row states: `duration`, else `n_frames`; ``None`` where it states none.

    :raises UserError: the stated value is no length.
    """
    if text := row.get("duration"):
        seconds = parse_seconds(text)
        if seconds is None or seconds == 0:
            raise UserError(row.wrong("duration", "seconds above 0"))
        return float(seconds)
    if text := row.get("n_frames"):
        if not (text.isascii() and text.isdigit()) or int(text) == 0:
            raise UserError(row.wrong("n_frames", "a positive integer"))
        return seconds_of(int(text))
    return None


def seconds_of_row(row: Row, root: Path) -> float:
    """The clip's length that the row states, or else that of the file's header.

    :raises UserError: the stated value is no length, or the file cannot be read.
    """
    stated = stated_seconds(row)
    if stated is not None:
        return stated
    try:
        return duration(resolve(row.get("audio"), root))
    except AudioError as error:
        raise UserError(f"{row.manifest}, line {row.line}, column 'audio': {error}") from None


def check_output(output: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    """
    :raises UserError: the output exists, or is one of the inputs.
    """
    if output.exists() and any(manifest.exists() and output.samefile(manifest) for manifest in inputs):
        raise UserError(f"--output: found {output}, one of the manifests that are read, expected another file")
    if output.exists() and not overwrite:
        raise UserError(f"--output: found {output}, expected no file at its place, or --overwrite")


def write_rows(
    output: Path, columns: Sequence[str], rows: Iterable[dict[str, str]], *, inputs: Sequence[Path], overwrite: bool,
    story: dict[str, Any],
) -> None:  # fmt: skip
    """Writes a manifest, whole or not at all, and a JSON file about its origin.

    :param rows: are read once, while they are written.
    :param story: values for the JSON file; may be filled in while the rows are read.
    :raises UserError: the place cannot be written, or has a file already.
    """
    check_output(output, inputs, overwrite=overwrite)
    sources = hashes(inputs)
    temporary = output.with_name(f".{output.name}.part")
    try:
        with told(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                file.write("\t".join(columns) + "\n")
                for row in rows:
                    file.write("\t".join(row.get(column, "") for column in columns) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    told_of = {"version": version("speechllm-plugin"), "sources": sources, **story}
    write_text_atomically(output.with_suffix(".json"), json.dumps(told_of, indent=1, ensure_ascii=False) + "\n")


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", type=Path, required=True,
                        help="the new manifest, FILE.tsv; FILE.json beside it tells what it was made of")
    parser.add_argument("--overwrite", action="store_true", help="replace a manifest that is there")


def placed(row: Row, root: Path, output: Path, audio_root: Path | None) -> dict[str, str]:
    """A row's fields for a manifest at another place. Paths of sound relative to `root`, also those of earlier turns,
    become relative to the new manifest's folder if they lie below it, else absolute. URLs stay as they are, and with
    `--audio-root` every path does."""
    fields = row.fields | {"audio": _placed(row.get("audio"), root, output, audio_root)}
    history = row.get("history")
    try:
        turns = json.loads(history) if '"audio"' in history else []
        for turn in turns:
            if "audio" in turn:
                turn["audio"] = _placed(turn["audio"], root, output, audio_root)
    except (ValueError, TypeError, RecursionError):
        return fields  # a broken history is reported when it is read
    return fields | {"history": json.dumps(turns, ensure_ascii=False)} if turns else fields


def _placed(audio: str, root: Path, output: Path, audio_root: Path | None) -> str:
    if audio_root is not None or os.path.isabs(audio) or is_remote(audio):
        return audio
    path = os.path.normpath(root.absolute() / audio)
    return path.removeprefix(f"{output.parent.absolute()}{os.sep}")
