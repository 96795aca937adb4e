"""Manifests: the TSV files that list utterances, in the layout of fairseq's speech-to-text data.

Columns, found by name and in any order:

``id``        a name that no other row has
``audio``     where the sound is; see :mod:`speechllm_plugin.datasets.audio`
``n_frames``  length in 10 ms frames (see :func:`frames_of`); the column, or a field of it, may be missing
``tgt_text``  what the model is to write: the transcript, or the translation
``channel``   the one channel of the sound, counted from 1; the column, or a field of it, may be missing: all, mixed
``task``      what is asked: a name of ``speechllm_plugin.tasks``; the column, or a field of it, may be missing:
              languages and prompt tell
``instruction``, ``context``, ``history``  what a row asks itself; see ``tasks.row_prompt``; optional
``src_text``, ``speaker``, ``src_lang``, ``tgt_lang``  optional

There is no quoting and no escaping, so a text holds no tab and no line end: the writer replaces them by spaces.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from speechllm_plugin.datasets.text_cleaning import CleanText, clean, tell_of_marks
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.tsv import Record, read_table, write_table
from speechllm_plugin.tasks.api import task_named
from speechllm_plugin.tasks.row_prompt import COLUMNS, NOTHING, RowPrompt, read_row_prompt

log = logging.getLogger(__name__)

_SAMPLE_RATE = 16000
# A frame is a window of 25 ms, and one begins every 10 ms. Whole microseconds keep the arithmetic exact.
_WINDOW_US = 25_000
_STEP_US = 10_000


@dataclass(frozen=True)
class ManifestRow:
    """One utterance. Optional columns that are missing read as the empty text."""

    id: str

    audio: str
    """Path, ``archive.zip:offset:length`` or ``path:start:length``, as written in the manifest."""

    n_frames: int | None
    """Length in 10 ms frames, whatever unit the file counts in; ``None`` where the manifest does not say."""

    tgt_text: str

    src_text: str

    speaker: str

    src_lang: str

    tgt_lang: str

    line: int
    """Line of the manifest that the row begins on, for messages; 0 for a row that was never read from one."""

    channel: int | None = None
    """The one channel to read, counted from 1; ``None`` = the mean of all."""

    task: str = ""
    """What is asked of the clip, by the name of its task; empty where languages and prompt tell."""

    asks: RowPrompt = NOTHING
    """What is asked beside the task."""


def frames_of(seconds: float) -> int:
    """How many 25 ms windows, one every 10 ms, fit into ``seconds``: ``1 + (ms - 25) // 10``, and at least 1.

    The lower bound is for clips shorter than one window, because a manifest cannot hold a length of nothing.
    """
    return max(1, 1 + (round(seconds * 1e6) - _WINDOW_US) // _STEP_US)


def seconds_of(n_frames: int) -> float:
    """The seconds that ``n_frames`` windows cover; the clip itself is at most one step (10 ms) longer."""
    return (_WINDOW_US + (n_frames - 1) * _STEP_US) / 1e6


def read_manifest(
    path: Path | str,
    *,
    require_text: bool = True,
    empty_text: bool = False,
    columns: Literal["header"] | Sequence[str] = "header",
    n_frames_unit: Literal["frames", "samples"] = "frames",
    legacy_escapes: bool = False,
    csv_quotes: bool = False,
    clean_text: CleanText = "none",
) -> list[ManifestRow]:
    """Read and check a manifest, in the order of its rows.

    :param require_text: whether ``tgt_text`` must be there and filled; decoding without references needs none.
    :param empty_text: whether a field of ``tgt_text`` may be empty: nothing is said in that clip.
    :param columns: ``"header"``, or the column names of a file that has no header line.
    :param n_frames_unit: what the file counts in ``n_frames``. ``"samples"`` (at 16 kHz) is what fairseq's writers
        store with ``use_audio_input``; rows always hold frames.
    :param legacy_escapes: undo the backslashes of manifests written by pandas with ``escapechar="\\\\"``, as
        fairseq's preparation scripts do. Without it a backslash is a backslash.
    :param csv_quotes: undo the quotation marks around fields, and the doubled ones inside, of manifests written by
        Python's csv or by pandas as they do by default. Without it a quotation mark is a quotation mark.
    :param clean_text: what is taken out of the texts beside words, see ``text_cleaning``; a warning tells what stays.
    :raises UserError: with file, line and column, what was found and what was expected.
    """
    path = Path(path)
    required = ["id", "audio"] + (["tgt_text"] if require_text else [])
    records = read_table(
        path,
        required=required,
        columns=None if columns == "header" else columns,
        legacy_escapes=legacy_escapes,
        csv_quotes=csv_quotes,
    )
    if not records:
        raise UserError(f"{path}: found a header and no rows, expected at least one row")

    rows = []
    lines: dict[str, int] = {}
    texts: list[tuple[int, str]] = []
    for original in records:
        record = _cleaned(path, original, clean_text, texts)
        for name in required:
            if not record.fields[name].strip() and not (name == "tgt_text" and empty_text):
                hint = " (dataset.config_overrides.empty_text=silence, if nobody speaks in it)"
                left = f" left by clean_text={clean_text}" if original.fields[name].strip() else ""
                raise _wrong(path, original, name, f"some text{left}{hint if name == 'tgt_text' else ''}")
        identity = record.fields["id"]
        if identity in lines:
            raise UserError(
                f"{path}, line {record.line}, column 'id': found {identity!r}, which line {lines[identity]} has too, "
                "expected each id once"
            )
        lines[identity] = record.line
        rows.append(
            ManifestRow(
                id=identity,
                audio=record.fields["audio"],
                n_frames=_read_n_frames(path, record, n_frames_unit),
                channel=_read_count(path, record, "channel", "the number of a channel, from 1 on"),
                tgt_text=record.fields.get("tgt_text", ""),
                src_text=record.fields.get("src_text", ""),
                speaker=record.fields.get("speaker", ""),
                src_lang=record.fields.get("src_lang", ""),
                tgt_lang=record.fields.get("tgt_lang", ""),
                line=record.line,
                task=_read_task(path, record),
                asks=read_row_prompt(record.fields, partial(_wrong, path, record)),
            )
        )
    tell_of_marks(path, texts, clean_text)
    if not legacy_escapes:
        _warn_of_quoting(path, rows, _is_escaped, '\\"', "legacy_escapes", "by pandas, with a backslash before each")
    if not csv_quotes:
        _warn_of_quoting(path, rows, _is_quoted, '""', "csv_quotes", "by Python's csv, with each doubled")
    return rows


def write_manifest(path: Path | str, rows: Iterable[ManifestRow]) -> None:
    """Write a manifest that :func:`read_manifest` reads back, whole or not at all.

    Tabs and line ends in texts become spaces. The columns ``src_text``, ``channel``, ``task``, ``instruction``,
    ``context`` and ``history`` are written where a row has one.

    :raises UserError: an id is repeated, an id or a path is empty, a path holds a tab or a line end, or the place
        cannot be written.
    """
    path = Path(path)
    rows = list(rows)
    with_source = any(row.src_text for row in rows)
    with_channel = any(row.channel is not None for row in rows)
    with_task = any(row.task for row in rows)
    asked = [name for name in COLUMNS if any(getattr(row.asks, name) for row in rows)]
    ids: set[str] = set()
    table = []
    for row in rows:
        if not row.id.strip() or not row.audio.strip():
            raise UserError(f"{path}, row {row.id!r}: found audio {row.audio!r}, expected an id and a path")
        # A space would make it the name of another file.
        if any(character in row.audio for character in "\t\r\n"):
            raise UserError(f"{path}, row {row.id!r}: found audio {row.audio!r}, expected no tab and no line end")
        fields = [row.id, row.audio, "" if row.n_frames is None else str(row.n_frames), row.tgt_text]
        fields += [row.src_text] if with_source else []
        fields += [row.speaker, row.src_lang, row.tgt_lang]
        fields += ["" if row.channel is None else str(row.channel)] if with_channel else []
        fields += [row.task] if with_task else []
        fields += [row.asks.columns()[name] for name in asked]
        if row.id in ids:
            raise UserError(f"{path}, row {row.id!r}: found its id twice, expected each id once")
        ids.add(row.id)
        table.append(fields)
    columns = ["id", "audio", "n_frames", "tgt_text"]
    columns += ["src_text"] if with_source else []
    columns += ["speaker", "src_lang", "tgt_lang"]
    columns += ["channel"] if with_channel else []
    columns += ["task"] if with_task else []
    columns += asked
    write_table(path, columns, table)


def _cleaned(path: Path, record: Record, mode: CleanText, texts: list[tuple[int, str]]) -> Record:
    """:param texts: gets the texts as they stand in the file."""
    fields = dict(record.fields)
    for name in ("tgt_text", "src_text"):
        if text := fields.get(name, ""):
            if "\0" in text:
                raise _wrong(path, record, name, "a text without U+0000, which no model can learn")
            texts.append((record.line, text))
            fields[name] = clean(text, mode)
    return Record(record.line, fields)


def _read_n_frames(path: Path, record: Record, unit: Literal["frames", "samples"]) -> int | None:
    count = _read_count(path, record, "n_frames", "a positive integer")
    return count if count is None or unit == "frames" else frames_of(count / _SAMPLE_RATE)


def _read_task(path: Path, record: Record) -> str:
    stated = record.fields.get("task", "").strip()
    return task_named(stated, f"{path}, line {record.line}, column 'task'").name if stated else ""


def _read_count(path: Path, record: Record, column: str, expected: str) -> int | None:
    text = record.fields.get(column, "")
    if not text:
        return None
    # Not int() alone: it also takes "1_000", " 7" and "+7", and so hides damage. isdigit() also takes superscripts.
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise _wrong(path, record, column, expected)
    return int(text)


def _is_escaped(text: str) -> bool:
    return '\\"' in text


def _is_quoted(text: str) -> bool:
    inside = text[1:-1]
    return text[:1] == text[-1:] == '"' and '""' in inside and '"' not in inside.replace('""', "")


def _warn_of_quoting(
    path: Path, rows: Sequence[ManifestRow], test: Callable[[str], bool], found: str, key: str, writer: str
) -> None:
    """A writer's quoting is told from quotation marks by a guess only: texts are left as they are, and it is said."""
    lines = [row.line for row in rows if test(row.tgt_text) or test(row.src_text)]
    if lines:
        log.warning(
            "%s: found %s for a quotation mark in the texts of %d of %d rows, first in line %d; "
            "dataset.config_overrides.%s=true reads manifests written %s",
            path, found, len(lines), len(rows), lines[0], key, writer,
        )  # fmt: skip


def _wrong(path: Path, record: Record, column: str, expected: str) -> UserError:
    return UserError(
        f"{path}, line {record.line}, column {column!r}: found {record.fields[column]!r}, expected {expected}"
    )
