"""One row of a manifest, and the checks of its fields."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from speechllm_plugin.datasets.text_cleaning import CleanText, clean
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.columns.fields import MOST_WHOLE
from speechllm_plugin.files.records import Record
from speechllm_plugin.files.remote import Location
from speechllm_plugin.files.text_list import read_text_list
from speechllm_plugin.tasks.api import task_named
from speechllm_plugin.tasks.row_prompt import NOTHING, RowPrompt, read_row_prompt

SAMPLE_RATE = 16000
"""Samples per second of an `n_frames` that counts samples."""
# A frame is a window of 25 ms, and one begins every 10 ms. Whole microseconds keep the arithmetic exact.
WINDOW_US = 25_000
STEP_US = 10_000
TEXTS = ("tgt_text", "src_text")
_SECONDS = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True)
class ManifestRow:
    """One utterance. Optional columns that are missing read as the empty text."""

    id: str

    audio: str
    """Path, ``archive.zip:offset:length`` or ``path:start:length``, as written in the manifest."""

    n_frames: int | None
    """Length in 10 ms frames, whichever unit the file counts in, or by ``duration`` where it has no ``n_frames``;
    ``None`` where the manifest has neither."""

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
    """Name of the clip's task; empty where languages and prompt decide it."""

    asks: RowPrompt = NOTHING
    """The prompt of the row's own, beside the task."""

    references: tuple[str, ...] = ()
    """Other answers that are as right as ``tgt_text``, for scores."""

    length_from: Literal["n_frames", "duration"] = "n_frames"
    """The column that `n_frames` comes from."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How rows are read; see :func:`speechllm_plugin.datasets.manifest.read_manifest`."""

    require_text: bool = True
    empty_text: bool = False
    n_frames_unit: Literal["frames", "samples"] = "frames"
    clean_text: CleanText = "none"

    @property
    def required(self) -> list[str]:
        """Columns that must be there, and filled."""
        return ["id", "audio"] + (["tgt_text"] if self.require_text else [])

    def may_be_blank(self, column: str) -> bool:
        return column == "tgt_text" and self.empty_text


def frames_of(seconds: float | Decimal) -> int:
    """The number of 25 ms windows, one every 10 ms, that fit into ``seconds``: ``1 + (ms - 25) // 10``, at least 1.

    The lower bound is for clips shorter than one window, since a manifest cannot state a length of 0.
    """
    return max(1, 1 + (round(seconds * 1_000_000) - WINDOW_US) // STEP_US)


@overload
def seconds_of(n_frames: int) -> float: ...
@overload
def seconds_of(n_frames: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]: ...
def seconds_of(n_frames: int | npt.NDArray[np.int64]) -> float | npt.NDArray[np.float64]:
    """The seconds that ``n_frames`` windows cover; the clip itself is at most one step (10 ms) longer."""
    return (WINDOW_US + (n_frames - 1) * STEP_US) / 1e6


def read_row(path: Location, record: Record, rules: Rules, same_id: int | None = None) -> ManifestRow:
    """
    :param same_id: the line of an earlier row with the same id.
    :raises UserError: with file, line and column, what was found and what was expected.
    """
    fields = _cleaned(path, record, rules.clean_text)
    for name in rules.required:
        if not fields[name].strip() and not rules.may_be_blank(name):
            hint = " (dataset.config_overrides.empty_text=silence, if nobody speaks in it)"
            left = f" left by clean_text={rules.clean_text}" if record.fields[name].strip() else ""
            raise _wrong(path, record, name, f"some text{left}{hint if name == 'tgt_text' else ''}")
    if same_id is not None:
        raise UserError(
            f"{path}, line {record.line}, column 'id': found {fields['id']!r}, which line {same_id} has too, expected "
            "each id once"
        )
    n_frames = _read_n_frames(path, record, rules.n_frames_unit)
    by_duration = _read_duration(path, record) if n_frames is None else None
    return ManifestRow(
        id=fields["id"],
        audio=fields["audio"],
        n_frames=n_frames if by_duration is None else by_duration,
        length_from="n_frames" if by_duration is None else "duration",
        channel=_read_count(path, record, "channel", "the number of a channel, from 1 on"),
        tgt_text=fields.get("tgt_text", ""),
        src_text=fields.get("src_text", ""),
        speaker=fields.get("speaker", ""),
        src_lang=fields.get("src_lang", ""),
        tgt_lang=fields.get("tgt_lang", ""),
        line=record.line,
        task=_read_task(path, record),
        asks=read_row_prompt(fields, partial(_wrong, path, record)),
        references=_read_references(path, record),
    )


def _cleaned(path: Location, record: Record, mode: CleanText) -> dict[str, str]:
    fields = dict(record.fields)
    for name in TEXTS:
        if text := fields.get(name, ""):
            if "\0" in text:
                raise _wrong(path, record, name, "a text without U+0000, which no model can learn")
            fields[name] = clean(text, mode)
    return fields


def _read_n_frames(path: Location, record: Record, unit: Literal["frames", "samples"]) -> int | None:
    count = _read_count(path, record, "n_frames", "a positive integer")
    return count if count is None or unit == "frames" else frames_of(count / SAMPLE_RATE)


def _read_duration(path: Location, record: Record) -> int | None:
    """The length that `duration` states, in frames."""
    text = record.fields.get("duration", "")
    if not text:
        return None
    # Not Decimal() alone: it also takes "1_0", " 7" and "NaN".
    seconds = Decimal(text) if _SECONDS.fullmatch(text) else Decimal()
    if not 0 < seconds < MOST_WHOLE:
        raise _wrong(path, record, "duration", "seconds above 0")
    return frames_of(seconds)


def _read_task(path: Location, record: Record) -> str:
    stated = record.fields.get("task", "").strip()
    return task_named(stated, f"{path}, line {record.line}, column 'task'").name if stated else ""


def _read_references(path: Location, record: Record) -> tuple[str, ...]:
    try:
        references = read_text_list(record.fields.get("references", ""))
    except ValueError:
        expected = 'a JSON list of answers, ["...", "..."], beside that of tgt_text'
        raise _wrong(path, record, "references", expected) from None
    stated = _read_task(path, record)
    if references and stated and task_named(stated, "task").scored_by != "answers":
        raise _wrong(path, record, "references", f"none: a text of the task {stated!r} is compared with tgt_text alone")
    return references


def _read_count(path: Location, record: Record, column: str, expected: str) -> int | None:
    text = record.fields.get(column, "")
    if not text:
        return None
    # Not int() alone: it also takes "1_000", " 7" and "+7", and so hides damage. isdigit() also takes superscripts.
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise _wrong(path, record, column, expected)
    return int(text)


def _wrong(path: Location, record: Record, column: str, expected: str) -> UserError:
    return UserError(
        f"{path}, line {record.line}, column {column!r}: found {record.fields[column]!r}, expected {expected}"
    )
