"""Manifests: the TSV files that list utterances, in the layout of fairseq's speech-to-text data.

Columns, found by name and in any order:

``id``        a name that no other row has
``audio``     where the sound is; see :mod:`speechllm_plugin.datasets.audio`
``n_frames``  length in 10 ms frames (see :func:`frames_of`); the column, or a field of it, may be missing
``tgt_text``  what the model is to write: the transcript, or the translation
``channel``   the one channel of the sound, counted from 1; the column, or a field of it, may be missing: all, mixed
``task``      what is asked: a name of ``speechllm_plugin.tasks``; the column, or a field of it, may be missing:
              languages and prompt tell
``instruction``, ``context``, ``history``  a prompt of the row's own; see ``tasks.row_prompt``; optional
``references``  answers that are as right as ``tgt_text``, a JSON list, for scores; optional
``src_text``, ``speaker``, ``src_lang``, ``tgt_lang``  optional

There is no quoting and no escaping, so a text holds no tab and no line end: the writer replaces them by spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from speechllm_plugin.datasets.manifest_check import ManifestCheck
from speechllm_plugin.datasets.manifest_index import Manifest
from speechllm_plugin.datasets.manifest_row import ManifestRow, Rules, frames_of, seconds_of
from speechllm_plugin.datasets.quoting import Quoting
from speechllm_plugin.datasets.text_cleaning import CleanText
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.columns.table import Look
from speechllm_plugin.files.remote import Location, location
from speechllm_plugin.files.text_list import write_text_list
from speechllm_plugin.files.tsv import open_table, write_table
from speechllm_plugin.tasks.row_prompt import COLUMNS

__all__ = ["Manifest", "ManifestRow", "frames_of", "open_manifest", "read_manifest", "seconds_of", "write_manifest"]


def open_manifest(
    path: Location | str,
    *,
    require_text: bool = True,
    empty_text: bool = False,
    columns: Literal["header"] | Sequence[str] = "header",
    n_frames_unit: Literal["frames", "samples"] = "frames",
    legacy_escapes: bool = False,
    csv_quotes: bool = False,
    clean_text: CleanText = "none",
) -> Manifest:
    """Check a manifest; its rows, in their order, are read when they are asked for.

    :param require_text: whether ``tgt_text`` must be there and filled; decoding without references needs none.
    :param empty_text: whether a field of ``tgt_text`` may be empty, for a clip in which nothing is said.
    :param columns: ``"header"``, or the column names of a file that has no header line.
    :param n_frames_unit: what the file counts in ``n_frames``. ``"samples"`` (at 16 kHz) is what fairseq's writers
        store with ``use_audio_input``; rows always hold frames.
    :param legacy_escapes: undo the backslashes of manifests written by pandas with ``escapechar="\\\\"``, as
        fairseq's preparation scripts do. Without it a backslash is a backslash.
    :param csv_quotes: undo the quotation marks around fields, and the doubled ones inside, of manifests written by
        Python's csv or by pandas as they do by default. Without it a quotation mark is a quotation mark.
    :param clean_text: which marks are removed from the texts, see ``text_cleaning``; a warning names those that stay.
    :raises UserError: with file, line and column, what was found and what was expected.
    """
    path = location(path) if isinstance(path, str) else path
    rules = Rules(
        require_text=require_text, empty_text=empty_text, n_frames_unit=n_frames_unit, clean_text=clean_text
    )
    quoting = Quoting(legacy_escapes=legacy_escapes, csv_quotes=csv_quotes)
    checks: list[ManifestCheck] = []

    def look(names: Sequence[str]) -> Look:
        checks.append(ManifestCheck(path, names, rules, quoting))
        return checks[0].look

    table = open_table(
        path,
        required=rules.required,
        columns=None if columns == "header" else columns,
        legacy_escapes=legacy_escapes,
        csv_quotes=csv_quotes,
        look=look,
    )
    if not len(table):
        raise UserError(f"{path}: found a header and no rows, expected at least one row")
    return checks[0].manifest(table)


def read_manifest(path: Location | str, **options: Any) -> list[ManifestRow]:
    """All rows of a manifest at once.

    :param options: of :func:`open_manifest`.
    :raises UserError: as there.
    """
    return list(open_manifest(path, **options))


def write_manifest(path: Path | str, rows: Iterable[ManifestRow]) -> None:
    """Write a manifest that :func:`read_manifest` reads back, whole or not at all.

    Tabs and line ends in texts become spaces. The columns ``src_text``, ``channel``, ``task``, ``instruction``,
    ``context``, ``history`` and ``references`` are written where a row has one.

    :raises UserError: an id is repeated, an id or a path is empty, a path holds a tab or a line end, or the place
        cannot be written.
    """
    path = Path(path)
    rows = list(rows)
    with_source = any(row.src_text for row in rows)
    with_channel = any(row.channel is not None for row in rows)
    with_task = any(row.task for row in rows)
    asked = [name for name in COLUMNS if any(getattr(row.asks, name) for row in rows)]
    with_references = any(row.references for row in rows)
    ids: set[str] = set()
    table = []
    for row in rows:
        if not row.id.strip() or not row.audio.strip():
            raise UserError(f"{path}, row {row.id!r}: found audio {row.audio!r}, expected an id and a path")
        # Replaced by a space, it would name another file.
        if any(character in row.audio for character in "\t\r\n"):
            raise UserError(f"{path}, row {row.id!r}: found audio {row.audio!r}, expected no tab and no line end")
        fields = [row.id, row.audio, "" if row.n_frames is None else str(row.n_frames), row.tgt_text]
        fields += [row.src_text] if with_source else []
        fields += [row.speaker, row.src_lang, row.tgt_lang]
        fields += ["" if row.channel is None else str(row.channel)] if with_channel else []
        fields += [row.task] if with_task else []
        fields += [row.asks.columns()[name] for name in asked]
        fields += [write_text_list(row.references)] if with_references else []
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
    columns += ["references"] if with_references else []
    write_table(path, columns, table)
