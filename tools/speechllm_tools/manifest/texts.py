"""Reads written instructions: TSV, JSONL or JSON, with the names of Alpaca's columns or others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_tools.prepare.text_files import RAGGED, read_lines, read_tsv

NO_OBJECT = "entry that is no JSON object"
NO_STRING = "field that is no text"
NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("id",),
    # tatsu-lab's Alpaca has instruction, input, output.
    "text": ("instruction", "text", "prompt", "question"),
    "input": ("input",),
    "output": ("output", "tgt_text", "answer", "response"),
}
"""Names in files for each of our columns: the first that an entry has is used."""


@dataclass(frozen=True)
class Entry:
    where: str
    """File and line, or number in a JSON list."""
    number: int
    """Number of the entry, counted from 1."""
    id: str = ""
    text: str = ""
    """The instruction to speak."""
    input: str = ""
    """The input that the instruction is about, if it is separate."""
    output: str = ""
    """The answer, if there is one."""
    reason: str | None = None
    """Why the entry cannot be used."""


def read_texts(path: Path, columns: Mapping[str, str]) -> Iterator[Entry]:
    """
    :param columns: names in the file for our columns, where they are not those of `NAMES`.
    :raises UserError: the file has another format, or no column with the instruction.
    """
    rows = _tsv(path) if path.suffix == ".tsv" else _json(path) if _is_list(path) else _jsonl(path)
    names = {ours: (columns[ours],) if ours in columns else known for ours, known in NAMES.items()}
    first = True
    for number, (where, found) in enumerate(rows, start=1):
        if isinstance(found, str):
            yield Entry(where, number, reason=found)
            continue
        if first:
            _check(path, columns, found)
        first = False
        values = [next((found[name] for name in known if found.get(name) is not None), "") for known in names.values()]
        if any(isinstance(value, dict | list | bool) for value in values):
            yield Entry(where, number, reason=NO_STRING)
        else:
            yield Entry(where, number, **dict(zip(names, map(str, values), strict=True)))


def _check(path: Path, columns: Mapping[str, str], first: Mapping[str, Any]) -> None:
    """
    :raises UserError: the first entry lacks a needed column.
    """
    expected = [*columns.values()]
    if "text" not in columns and not any(name in first for name in NAMES["text"]):
        expected.append(f"{' or '.join(NAMES['text'])} (or --columns text=NAME)")
    if missing := [name for name in expected if name not in first]:
        raise UserError(f"{path}: found the columns {', '.join(first)}, expected also {', '.join(missing)}")


def _is_list(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(1000).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), expected TSV, JSONL or JSON") from None


def _tsv(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    for line, fields in read_tsv(path, ()):
        yield f"{path}, line {line}", RAGGED if fields is None else fields


def _jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    for line, text in read_lines(path):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        yield f"{path}, line {line}", value if isinstance(value, dict) else NO_OBJECT


def _json(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: found no valid JSON ({error}), expected a list of objects") from None
    for number, value in enumerate(values, start=1):
        yield f"{path}, entry {number}", value if isinstance(value, dict) else NO_OBJECT
