"""A manifest without an object for each row: arrays for the reader's plan, and rows that are read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from speechllm_plugin.datasets.audio_places import AudioPlaces
from speechllm_plugin.datasets.manifest_row import ManifestRow, Rules, read_row
from speechllm_plugin.files.columns.fields import Flags, Hashes, Places
from speechllm_plugin.files.columns.table import Table
from speechllm_plugin.files.remote import Location

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Kind:
    """The values that rows with the same prompt have in common."""

    src_lang: str
    """As the manifest spells it; so is `tgt_lang`."""
    tgt_lang: str
    task: str
    """Empty where the languages tell."""
    has_instruction: bool
    """Whether the rows have an instruction of their own."""


@dataclass(frozen=True, kw_only=True)
class ManifestColumns:
    """Values of all rows, in their order."""

    n_frames: Places
    """Length in frames; 0 where the manifest does not state it."""
    ids: Hashes
    """Hashes of the ids: different ids hardly ever have the same."""
    kind: Codes
    """Index into `kinds`."""
    kinds: Sequence[Kind]
    has_text: Flags
    """Whether there is a `tgt_text`, after it has been cleaned."""
    has_source: Flags
    """Whether there is a `src_text`, after it has been cleaned."""
    has_asks: Flags
    """Whether the row has a prompt of its own: see `tasks.row_prompt`."""
    asks_size: Places
    """Size of that prompt, in bytes."""
    hears: Flags
    """Whether an earlier turn of the row is in speech."""
    audio: AudioPlaces

    def take(self, rows: Places) -> ManifestColumns:
        arrays = {name: getattr(self, name)[rows] for name in vars(self) if name not in ("kinds", "audio")}
        return ManifestColumns(kinds=self.kinds, audio=self.audio.take(rows), **arrays)


class Manifest(Sequence[ManifestRow]):
    """The rows of a manifest, all of which have been checked."""

    def __init__(self, path: Location, table: Table, rules: Rules, columns: ManifestColumns) -> None:
        self.path, self.columns = path, columns
        self._table, self._rules = table, rules

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> ManifestRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[ManifestRow]: ...
    def __getitem__(self, index: int | slice) -> ManifestRow | list[ManifestRow]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        return read_row(self.path, self._table[index], self._rules)

    def __iter__(self) -> Iterator[ManifestRow]:
        return (read_row(self.path, record, self._rules) for record in self._table)

    @property
    def is_as_written(self) -> bool:
        """Whether the rows have the fields exactly as the file has them."""
        return self._rules.clean_text == "none"

    def fields_of(self, columns: Sequence[str], rows: Places) -> Iterator[list[bytes]]:
        """The fields of the file; see `Table.fields_of`."""
        return self._table.fields_of(columns, rows)

    def has_column(self, name: str) -> bool:
        return name in self._table.columns

    def take(self, rows: Places) -> Manifest:
        """A manifest of only these rows, in memory."""
        return Manifest(self.path, self._table.take(rows), self._rules, self.columns.take(rows))
