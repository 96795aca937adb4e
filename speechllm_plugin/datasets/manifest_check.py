"""Checks the rows of a manifest, many at once; rows that may be wrong are then read one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechllm_plugin.datasets.audio_places import PlaceCollector
from speechllm_plugin.datasets.manifest_index import Codes, Kind, Manifest, ManifestColumns
from speechllm_plugin.datasets.manifest_row import SAMPLE_RATE, STEP_US, TEXTS, WINDOW_US, Rules, read_row
from speechllm_plugin.datasets.quoting import Quoting, quotes
from speechllm_plugin.datasets.text_cleaning import Marks, clean, signs
from speechllm_plugin.files.columns.fields import (
    Flags,
    Hashes,
    Places,
    distinct,
    hashes,
    may_be_blank,
    millionths,
    mixed,
    numbers,
    rows_with,
)
from speechllm_plugin.files.columns.table import Block, Table
from speechllm_plugin.files.remote import Location
from speechllm_plugin.tasks.row_prompt import COLUMNS, NOTHING

_MOST_FRAMES = 1 << 50
"""Frames that a longer clip counts as."""


class ManifestCheck:
    """Gets a manifest's rows block by block."""

    def __init__(self, path: Location, names: Sequence[str], rules: Rules, quoting: Quoting) -> None:
        self._path, self._names, self._rules, self._quoting = path, list(names), rules, quoting
        self._marks, self._kinds, self._audio = Marks(), _Kinds(), PlaceCollector()
        self._suspects: list[Places] = []
        self._n_frames: list[Places] = []
        self._asks_size: list[Places] = []
        self._ids: list[Hashes] = []
        self._kind: list[Codes] = []
        self._texts: dict[str, list[Flags]] = {name: [] for name in TEXTS}

    def look(self, block: Block) -> None:
        for name in self._rules.required:
            if not self._rules.may_be_blank(name):
                self._suspect(block, may_be_blank(block.data, *self._column(block, name)))
        for name in (*COLUMNS, "references"):
            begins, ends = self._column(block, name)
            self._suspect(block, ends > begins)
        asks = [self._column(block, name) for name in COLUMNS]
        self._asks_size.append(sum((ends - begins for begins, ends in asks), start=np.zeros_like(asks[0][0])))
        self._n_frames.append(self._look_at_length(block))
        self._look_at_number(block, "channel")
        self._ids.append(hashes(block.data, *self._column(block, "id")))
        self._audio.look(block.data, *self._column(block, "audio"))
        self._look_at_kinds(block)
        self._look_at_texts(block)

    def manifest(self, table: Table) -> Manifest:
        """:raises UserError: for the first row that is wrong."""
        n_frames, ids = np.concatenate(self._n_frames), np.concatenate(self._ids)
        has_asks, hears = np.zeros(len(table), dtype=bool), np.zeros(len(table), dtype=bool)
        same = _same(ids)
        for row in np.unique(np.concatenate([*self._suspects, *same.values()])).tolist():
            record = table[row]
            others = (table[other] for other in same.get(int(ids[row]), ()) if other < row)
            line = next((other.line for other in others if other.fields["id"] == record.fields["id"]), None)
            read = read_row(self._path, record, self._rules, line)
            n_frames[row] = min(read.n_frames or 0, _MOST_FRAMES)
            has_asks[row], hears[row] = read.asks != NOTHING, bool(read.asks.heard)
        self._marks.tell(self._path, self._rules.clean_text)
        self._quoting.tell(self._path, len(table))
        has_text, has_source = (np.concatenate(self._texts[name]) for name in TEXTS)
        columns = ManifestColumns(
            n_frames=n_frames,
            ids=ids,
            kind=np.concatenate(self._kind),
            kinds=self._kinds.found,
            has_text=has_text,
            has_source=has_source,
            has_asks=has_asks,
            asks_size=np.concatenate(self._asks_size),
            hears=hears,
            audio=self._audio.places(),
        )
        return Manifest(self._path, table, self._rules, columns)

    def _column(self, block: Block, name: str) -> tuple[Places, Places]:
        """Where the fields of a column begin and end; empty fields where there is no such column."""
        if name not in self._names:
            return block.begins[:, 0], block.begins[:, 0]
        column = self._names.index(name)
        return block.begins[:, column], block.ends[:, column]

    def _suspect(self, block: Block, rows: Flags) -> None:
        self._suspects.append(block.first + np.flatnonzero(rows))

    def _look_at_number(self, block: Block, name: str) -> Places:
        begins, ends = self._column(block, name)
        values, is_number = numbers(block.data, begins, ends)
        self._suspect(block, (ends > begins) & ~(is_number & (values > 0)))
        return values

    def _look_at_length(self, block: Block) -> Places:
        """Lengths in frames; 0 where the row does not state one."""
        values = self._look_at_number(block, "n_frames")
        if self._rules.n_frames_unit == "samples":
            values = _frames(np.rint(values / SAMPLE_RATE * 1e6).astype(np.int64))
        begins, ends = self._column(block, "n_frames")
        rows = np.flatnonzero(ends == begins)
        begins, ends = (places[rows] for places in self._column(block, "duration"))
        if (ends > begins).any():
            microseconds, is_number = millionths(block.data, begins, ends)
            self._suspects.append(block.first + rows[(ends > begins) & ~(is_number & (microseconds > 0))])
            values[rows] = _frames(microseconds)
        return values

    def _look_at_kinds(self, block: Block) -> None:
        begins, ends = self._column(block, "instruction")
        has_instruction = ends > begins
        for row in np.flatnonzero(has_instruction & may_be_blank(block.data, begins, ends)):
            has_instruction[row] = bool(self._text(block, row, "instruction").strip())
        keys = has_instruction.astype(np.uint64)
        for name in ("src_lang", "tgt_lang", "task"):
            keys = mixed(keys ^ hashes(block.data, *self._column(block, name)))
        unique, rows, inverse = np.unique(keys, return_index=True, return_inverse=True)
        codes = []
        for key, row in zip(unique.tolist(), rows.tolist(), strict=True):
            if key not in self._kinds:
                # Its task may not exist.
                self._suspects.append(np.array([block.first + row]))
                source, target, task = (self._text(block, row, name) for name in ("src_lang", "tgt_lang", "task"))
                self._kinds.add(key, Kind(source, target, task.strip(), bool(has_instruction[row])))
            codes.append(self._kinds[key])
        self._kind.append(np.array(codes, dtype=np.int32)[inverse])

    def _look_at_texts(self, block: Block) -> None:
        places = np.concatenate([signs(block.data), quotes(block.data)])
        columns = {name: self._column(block, name) for name in TEXTS}
        has = {name: ends > begins for name, (begins, ends) in columns.items()}
        self._marks.texts += sum(int(flags.sum()) for flags in has.values())
        rows = distinct(np.concatenate([rows_with(places, *column) for column in columns.values()]))
        for row in rows.tolist():
            cleaned = []
            for name in TEXTS:
                if not (text := self._text(block, row, name)):
                    continue
                self._marks.look(f"line {block.line(row)}", text)
                cleaned.append(clean(text, self._rules.clean_text))
                has[name][row] = bool(cleaned[-1])
                if "\0" in text or not cleaned[-1].strip():
                    self._suspects.append(np.array([block.first + row]))
            self._quoting.look(block.line(row), cleaned)
        for name, flags in has.items():
            self._texts[name].append(flags)

    def _text(self, block: Block, row: int, name: str) -> str:
        return block.text(row, self._names.index(name)) if name in self._names else ""


class _Kinds(dict[int, int]):
    """The number of each kind, by the hash of its fields."""

    def __init__(self) -> None:
        self.found: list[Kind] = []

    def add(self, key: int, kind: Kind) -> None:
        if kind not in self.found:
            self.found.append(kind)
        self[key] = self.found.index(kind)


def _frames(microseconds: Places) -> Places:
    """`frames_of` for many lengths; 0 stays 0."""
    return np.where(microseconds == 0, 0, np.maximum(1, 1 + (microseconds - WINDOW_US) // STEP_US))


def _same(ids: Hashes) -> dict[int, Places]:
    """The rows, in order, whose ids have the same hash, by that hash."""
    in_order = np.sort(ids)
    shared = distinct(in_order[1:][in_order[1:] == in_order[:-1]])
    if not len(shared):
        return {}
    order = np.argsort(ids, kind="stable")
    begins, ends = np.searchsorted(in_order, shared), np.searchsorted(in_order, shared, side="right")
    return {int(key): order[begin:end] for key, begin, end in zip(shared, begins, ends, strict=True)}
