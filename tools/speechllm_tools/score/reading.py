"""Reads hypotheses of any system: this project's run directories, tables, plain text, Hearing to Translate's files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import read_lines
from speechllm_plugin.files.tsv import read_table
from speechllm_plugin.scoring.report import Hypothesis, read_hypotheses, references_of
from speechllm_plugin.tasks.api import task_named

HYPOTHESES = "hypotheses.tsv"


@dataclass(frozen=True)
class DataSet:
    """The hypotheses of one system for one set of clips."""

    name: str
    file: Path
    rows: list[Hypothesis]
    cut: int | None = None
    """Number of hypotheses that the length limit ended; None if it was not recorded."""


@dataclass(frozen=True)
class System:
    name: str
    sets: list[DataSet]


@dataclass(frozen=True)
class Side:
    """Data that hypotheses of other systems lack, given separately."""

    references: Path | None = None
    transcripts: Path | None = None
    direction: str = ""
    """`en` or `en-de`."""


def read_systems(named: Sequence[str], side: Side) -> list[System]:
    """
    :param named: each is `PATH` or `NAME=PATH`.
    :raises UserError: a path holds no hypotheses, or two systems have one name.
    """
    systems: list[System] = []
    for item in named:
        name, separator, path = item.partition("=")
        if not separator or Path(item).exists():
            name, path = "", item
        folder = Path(path)
        system = System(name or _name(folder), _read(folder, side))
        if any(system.name == other.name for other in systems):
            raise UserError(f"RUN: found two systems named {system.name!r}, expected NAME={path} for one of them")
        systems.append(system)
    return systems


def _name(path: Path) -> str:
    path = path.resolve()
    # `runs/cif/test/hypotheses.tsv` and `runs/cif/evaluation` belong to the system `cif`.
    while path.name in (HYPOTHESES, "evaluation") or (path / HYPOTHESES).is_file():
        path = path.parent
    return path.stem if path.suffix in (".tsv", ".txt", ".jsonl") else path.name


def _read(path: Path, side: Side) -> list[DataSet]:
    if path.is_file():
        return [_read_file(path, side)]
    if not path.is_dir():
        raise UserError(f"{path}: found no such file or directory, expected hypotheses")
    if (path / HYPOTHESES).is_file():
        return [_read_own(path / HYPOTHESES)]
    for folder in (path, path / "evaluation"):
        if files := sorted(folder.glob(f"*/{HYPOTHESES}")):
            return [_read_own(file) for file in files]
    if files := sorted(path.glob("*/*.jsonl")):
        return [_read_public(file, side) for file in files]
    raise UserError(
        f"{path}: found no {HYPOTHESES} in it or one folder below, expected the output directory of `evaluate` or "
        "`cascade`, or a file"
    )


def _read_own(file: Path) -> DataSet:
    cut = None
    if (scores := file.parent / "scores.json").is_file():
        try:
            cut = json.loads(scores.read_text(encoding="utf-8"))["scores"].get("cut_hypotheses")
        except (ValueError, KeyError, AttributeError):
            raise UserError(f"{scores}: found a damaged file, expected what `evaluate` writes") from None
    return DataSet(file.parent.name, file, read_hypotheses(file), cut)


def _read_file(path: Path, side: Side) -> DataSet:
    if path.name == HYPOTHESES:
        return _read_own(path)
    if path.suffix == ".jsonl":
        return _read_public(path, side)
    if path.suffix == ".tsv":
        return DataSet(path.stem, path, _completed(_read_tsv(path), path, side))
    rows = [_row(str(number), text) for number, text in enumerate(read_lines(path, "a text file"), start=1)]
    return DataSet(path.stem, path, _completed(rows, path, side, by_line=True))


def _row(identity: str, hypothesis: str, **fields: Any) -> Hypothesis:
    empty = {"reference": "", "source": "", "duration": 0.0, "src_lang": "", "tgt_lang": ""}
    return Hypothesis(id=identity, hypothesis=hypothesis, **{**empty, **fields})


def _read_tsv(path: Path) -> list[Hypothesis]:
    """Reads a table with the columns id and hypothesis and any others of our own files, or a manifest.

    The texts of a manifest are the hypotheses: the LLM's written answers (`speechllm manifest answer`) are also a
    system.
    """
    optional = ("reference", "transcript", "source", "src_lang", "tgt_lang", "task")
    records = read_table(path, required=("id",))
    columns = records[0].fields if records else {}
    column = next((name for name in ("hypothesis", "tgt_text") if name in columns), None)
    if records and column is None:
        raise UserError(f"{path}, line 1: found columns {', '.join(columns)}, expected also 'hypothesis'")
    return [
        _row(record.fields["id"], record.fields[column or ""], references=references_of(path, record),
             **{name: record.fields[name] for name in optional if name in record.fields})
        for record in records
    ]


def _completed(rows: list[Hypothesis], path: Path, side: Side, by_line: bool = False) -> list[Hypothesis]:
    """The rows completed from `side`: references are matched by id, or by line if one of the two is plain text."""
    fields: list[Mapping[str, Any]] = [{}] * len(rows)
    if side.references is not None:
        known = _read_references(side.references)
        if by_line or "id" not in known[0]:
            _check_count(path, len(rows), side.references, len(known))
            fields = known
        else:
            by_id = {one["id"]: one for one in known}
            if missing := [row.id for row in rows if row.id not in by_id]:
                raise UserError(f"{path}: found {len(missing):,} ids that {side.references} lacks, the first "
                                f"{missing[0]!r}; expected its ids")
            fields = [by_id[row.id] for row in rows]
    transcripts = [""] * len(rows) if side.transcripts is None else read_lines(side.transcripts, "a text file")
    if side.transcripts is not None:
        _check_count(path, len(rows), side.transcripts, len(transcripts))
    source, _, target = side.direction.partition("-")
    completed = []
    for row, one, transcript in zip(rows, fields, transcripts, strict=True):
        changes: dict[str, Any] = {
            name: value for name, value in one.items() if value and (by_line or not getattr(row, name))
        }
        row = replace(row, **changes)
        completed.append(replace(
            row, transcript=transcript or row.transcript, src_lang=row.src_lang or source,
            tgt_lang=row.tgt_lang or target or source,
        ))  # fmt: skip
    for name in {row.task for row in completed if row.task}:
        task_named(name, f"{path}, column 'task'")
    if not any(row.reference for row in completed):
        raise UserError(f"{path}: found no references, expected a column 'reference' or --references FILE")
    return completed


def _check_count(path: Path, count: int, beside: Path, expected: int) -> None:
    if count != expected:
        raise UserError(f"{path}: found {count:,} hypotheses, expected {expected:,}, as many as {beside} has lines")


def _read_references(path: Path) -> list[Mapping[str, Any]]:
    """Reads the fields that rows may lack, with their `id` if the file has ids.

    The file holds hypotheses, a manifest, one of Hearing to Translate's manifests, or plain text.

    :raises UserError: the file is empty.
    """
    if path.suffix == ".jsonl":
        names = {"id": "sample_id", "reference": "tgt_ref", "transcript": "src_ref", "src_lang": "src_lang",
                 "tgt_lang": "tgt_lang", "source": "src_audio"}
        known: list[Mapping[str, Any]] = [
            {field: _text(item.get(name)) for field, name in names.items()}
            for item in _json_lines(path, ("sample_id", "tgt_ref"))
        ]
    elif path.suffix == ".tsv":
        records = read_table(path, required=("id",))
        if records and not {"reference", "tgt_text"} & set(records[0].fields):
            raise UserError(f"{path}: found columns {', '.join(records[0].fields)}, expected 'reference' or 'tgt_text'")
        columns = {"id": ("id",), "reference": ("reference", "tgt_text"), "transcript": ("transcript", "src_text"),
                   "src_lang": ("src_lang",), "tgt_lang": ("tgt_lang",), "source": ("source", "audio"),
                   "task": ("task",)}  # fmt: skip
        known = [
            {field: next((record.fields[name] for name in names if name in record.fields), "")
             for field, names in columns.items()} | {"references": references_of(path, record)}
            for record in records
        ]
    else:
        known = [{"reference": text} for text in read_lines(path, "a text file")]
    if not known:
        raise UserError(f"{path}: found no rows, expected references")
    return known


def read_answers(path: Path) -> dict[str, str]:
    """Answers by id: `tgt_text` of a manifest, or `reference` of hypotheses.

    :raises UserError: the file has no ids or no answers.
    """
    rows = _read_references(path)
    if "id" not in rows[0]:
        raise UserError(f"{path}: found no ids, expected a manifest")
    return {row["id"]: row["reference"] for row in rows}


def _read_public(path: Path, side: Side) -> DataSet:
    """Reads a file of Hearing to Translate (arXiv 2512.16378): `outputs/SYSTEM/SET/en-de.jsonl`.

    The references are in `manifests/SET/en-de.jsonl` beside `outputs`.
    """
    rows = [
        _row(str(item["sample_id"]), _text(item["output"]), src_lang=_text(item.get("src_lang")),
             tgt_lang=_text(item.get("tgt_lang")))
        for item in _json_lines(path, ("sample_id", "output"))
    ]
    name = path.parent.name if len(path.resolve().parents) > 1 else path.stem
    if side.references is None and len(path.resolve().parents) > 3:
        found = path.resolve().parents[3] / "manifests" / path.parent.name / path.name
        side = replace(side, references=found if found.is_file() else None)
    return DataSet(name, path, _completed(rows, path, side))


def _json_lines(path: Path, required: Sequence[str]) -> list[Mapping[str, Any]]:
    items = []
    for number, line in enumerate(read_lines(path, "a text file"), start=1):
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: found no valid JSON ({error}), expected an object") from None
        for name in required:
            if not isinstance(item, dict) or name not in item:
                raise UserError(f"{path}, line {number}: found no {name!r}, expected an object that has it")
        items.append(item)
    return items


def _text(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
