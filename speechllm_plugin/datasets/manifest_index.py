"""A manifest without an object a row: what the reader plans with, as arrays, and its rows when they are asked for."""

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
    """What rows have in common that are asked the same."""

    src_lang: str
    """As in the manifest, likewise `tgt_lang`."""
    tgt_lang: str
    task: str
    """Empty where the languages tell."""
    has_instruction: bool
    """Of its own."""


@dataclass(frozen=True, kw_only=True)
class ManifestColumns:
    """Of all rows, in their order."""

    n_frames: Places
    """0 where the manifest does not say."""
    ids: Hashes
    """Equal where ids are; of others hardly ever."""
    kind: Codes
    """Number among `kinds`."""
    kinds: Sequence[Kind]
    has_text: Flags
    """Whether there is a `tgt_text`, after it has been cleaned."""
    has_source: Flags
    """Whether there is a `src_text`, likewise."""
    has_asks: Flags
    """Whether it asks something itself: see `tasks.row_prompt`."""
    audio: AudioPlaces

    def take(self, rows: Places) -> ManifestColumns:
        arrays = {name: getattr(self, name)[rows] for name in vars(self) if name not in ("kinds", "audio")}
        return ManifestColumns(kinds=self.kinds, audio=self.audio.take(rows), **arrays)


class Manifest(Sequence[ManifestRow]):
    """All rows have been checked."""

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
        """Whether the fields of its rows are those of the file."""
        return self._rules.clean_text == "none"

    def fields_of(self, columns: Sequence[str], rows: Places) -> Iterator[list[bytes]]:
        """Of the file; see `Table.fields_of`."""
        return self._table.fields_of(columns, rows)

    def has_column(self, name: str) -> bool:
        return name in self._table.columns

    def take(self, rows: Places) -> Manifest:
        """These rows alone, in memory."""
        return Manifest(self.path, self._table.take(rows), self._rules, self.columns.take(rows))
