"""The utterances of several manifests as one sequence, kept in arrays: an utterance is read when it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

from speechllm_plugin.datasets.audio import AudioSource, duration, resolve
from speechllm_plugin.datasets.audio_places import unseen
from speechllm_plugin.datasets.manifest_index import Codes, Kind, Manifest
from speechllm_plugin.datasets.manifest_row import ManifestRow, seconds_of
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.columns.fields import Flags, Hashes, Places
from speechllm_plugin.files.remote import Location
from speechllm_plugin.tasks.api import task_of_row
from speechllm_plugin.text.languages import is_translation

Value = TypeVar("Value")

Asked = tuple[str, str, str]
"""The languages of speech and text, and the task that the row states, if any: they decide the prompt."""


@dataclass(frozen=True)
class Utterance:
    """A manifest row with what its dataset adds."""

    row: ManifestRow
    manifest: Location
    root: Location
    source_lang: str
    target_lang: str
    split: str = ""
    scales_floats: bool = True
    """See `AudioSource`."""

    @property
    def name(self) -> str:
        """The utterance's name in errors."""
        return f"{self.manifest}, line {self.row.line}, id {self.row.id}"

    @property
    def asked(self) -> Asked:
        return self.source_lang, self.target_lang, self.row.task

    def origin_of(self, name: str) -> str:
        """Where the `source` or the `target` language comes from: a column of the manifest, or a key of the dataset."""
        if name == "target" and self.row.tgt_lang:
            return "column 'tgt_lang'"
        if name == "target" and self.target_lang != self.source_lang:
            return "dataset.config_overrides.target_lang"
        return "column 'src_lang'" if self.row.src_lang else "dataset.config_overrides.source_lang"

    def source(self) -> AudioSource:
        return resolve(self.row.audio, self.root, self.row.channel, scales_floats=self.scales_floats)

    def seconds(self) -> float:
        """Duration by the manifest, or by the audio file's header where the manifest has none.

        :raises AudioError: there is no such file, or its header cannot be read.
        """
        source = self.source()
        return seconds_of(self.row.n_frames) if self.row.n_frames else duration(source)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of a split's manifests."""

    manifest: Manifest
    root: Location
    """Folder that relative audio paths start from."""
    split: str
    source_lang: str
    """Language of the speech of rows that do not state it."""
    target_lang: str | None
    """Language of the text of rows that do not state it; None = that of the speech."""
    scales_floats: bool

    def __getitem__(self, index: int) -> Utterance:
        return self._utterance(self.manifest[index])

    def __iter__(self) -> Iterator[Utterance]:
        return map(self._utterance, self.manifest)

    def __post_init__(self) -> None:
        """:raises UserError: for the first row whose task does not go with its languages or its texts."""
        columns = self.manifest.columns
        wrong = np.zeros(len(self.manifest), dtype=bool)
        for number, kind in enumerate(columns.kinds):
            if kind.task == "translate" and not self._translates(kind):
                wrong |= columns.kind == number
            elif self._takes_source(kind):
                wrong |= (columns.kind == number) & ~columns.has_source
        if wrong.any():
            self._refuse(self.manifest[int(wrong.argmax())])

    @cached_property
    def asked(self) -> list[Asked]:
        """The languages and task of each kind of the manifest's rows."""
        return [
            (source, source if self._takes_source(kind) else target, kind.task)
            for kind in self.manifest.columns.kinds
            for source, target in [self._languages(kind)]
        ]

    @cached_property
    def has_text(self) -> Flags:
        """Whether there is a text that the LLM should write, `[rows]`."""
        columns = self.manifest.columns
        takes_source = np.array([self._takes_source(kind) for kind in columns.kinds])
        return np.where(takes_source[columns.kind], columns.has_source, columns.has_text)

    @property
    def is_as_written(self) -> bool:
        """Whether the utterances have ids, names and texts exactly as the manifest has them."""
        takes_source = any(map(self._takes_source, self.manifest.columns.kinds))
        return self.manifest.is_as_written and not takes_source and not self.manifest.has_column("channel")

    def not_seen(self) -> Flags:
        """Whether the lists of folders do not show a row's sound, `[rows]`."""
        flags = np.zeros(len(self.manifest), dtype=bool)
        flags[unseen(self.manifest.columns.audio, self.root, lambda row: self[row].source())] = True
        return flags

    def _languages(self, of: Kind | ManifestRow) -> tuple[str, str]:
        source = of.src_lang or self.source_lang
        return source, of.tgt_lang or self.target_lang or source

    def _translates(self, of: Kind | ManifestRow) -> bool:
        return is_translation(*self._languages(of))

    def _takes_source(self, of: Kind | ManifestRow) -> bool:
        """Whether the target is the transcript (`src_text`), although the row has a text in another language."""
        if not of.task or not self._translates(of):
            return False
        return task_of_row(*self._languages(of), of.task).writes_speech

    def _utterance(self, row: ManifestRow) -> Utterance:
        source, target = self._languages(row)
        if self._takes_source(row):
            row, target = replace(row, tgt_text=row.src_text), source
        return Utterance(row, self.manifest.path, self.root, source, target, self.split, self.scales_floats)

    def _refuse(self, row: ManifestRow) -> None:
        where = f"{self.manifest.path}, line {row.line}, id {row.id}"
        if row.task == "translate":
            raise UserError(
                f"{where}, column 'task': found 'translate' into the language of the speech, expected another "
                "tgt_lang, or another task"
            )
        raise UserError(f"{where}, column 'src_text': found '', expected what is said, as the task is {row.task}")


class Utterances(Sequence[Utterance]):
    def __init__(self, parts: Sequence[Part], rows: Places | None = None) -> None:
        """
        :param rows: numbers of the chosen rows, in their order, counted over all parts; None = all.
        """
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part.manifest) for part in parts)])
        self._rows = np.arange(self._starts[-1]) if rows is None else rows

    @classmethod
    def joined(cls, several: Iterable[Utterances]) -> Utterances:
        parts: list[Part] = []
        rows = [np.empty(0, dtype=np.int64)]
        for one in several:
            rows.append(one._rows + sum(len(part.manifest) for part in parts))
            parts += one._parts
        return cls(parts, np.concatenate(rows))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> Utterances: ...
    def __getitem__(self, index: int | slice) -> Utterance | Utterances:
        if isinstance(index, slice):
            return Utterances(self._parts, self._rows[index])
        row = int(self._rows[index])
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._parts[part][row - int(self._starts[part])]

    def __iter__(self) -> Iterator[Utterance]:
        if len(self) == self._starts[-1] and (np.diff(self._rows) == 1).all():
            # All utterances in order are read from a file in blocks.
            return (utterance for part in self._parts for utterance in part)
        return (self[index] for index in range(len(self)))

    def take(self, indices: Places) -> Utterances:
        return Utterances(self._parts, self._rows[indices])

    def alone(self) -> Utterances:
        """The same utterances without the other rows of their manifests, in memory: for another process, which may run
        in another folder."""
        parts = np.searchsorted(self._starts, self._rows, side="right") - 1
        chosen: list[Part] = []
        rows = np.empty(len(self), dtype=np.int64)
        for number in np.unique(parts).tolist():
            is_own = parts == number
            rows[is_own] = np.arange(is_own.sum()) + sum(len(part.manifest) for part in chosen)
            part = self._parts[number]
            root = part.root.absolute() if isinstance(part.root, Path) else part.root
            own = part.manifest.take(self._rows[is_own] - self._starts[number])
            chosen.append(replace(part, manifest=own, root=root))
        return Utterances(chosen, rows)

    @cached_property
    def n_frames(self) -> Places:
        """Lengths in frames, `[utterances]`; 0 where the manifest does not state it."""
        return self._column([part.manifest.columns.n_frames for part in self._parts])

    @property
    def ids(self) -> Hashes:
        """Hashes of the ids, `[utterances]`, the same on every machine."""
        return self._column([part.manifest.columns.ids for part in self._parts])

    @property
    def has_text(self) -> Flags:
        """Whether there is a text that the LLM should write, `[utterances]`."""
        return self._column([part.has_text for part in self._parts])

    @property
    def has_source(self) -> Flags:
        """Whether there is a transcript beside that text, `[utterances]`."""
        return self._column([part.manifest.columns.has_source for part in self._parts])

    @property
    def has_asks(self) -> bool:
        """Whether any utterance has a prompt of its own."""
        return bool(self._column([part.manifest.columns.has_asks for part in self._parts]).any())

    def asking_more_than(self, size: int) -> Places:
        """
        :param size: size of instruction, context and history, in bytes.
        """
        return np.flatnonzero(self._column([part.manifest.columns.asks_size for part in self._parts]) > size)

    @property
    def hearing(self) -> Places:
        """Indices of the utterances with speech in earlier turns."""
        return np.flatnonzero(self._column([part.manifest.columns.hears for part in self._parts]))

    @property
    def asked(self) -> tuple[list[Asked], Codes]:
        """The distinct languages and tasks, and the index of each utterance into them, `[utterances]`."""
        every = dict.fromkeys(one for part in self._parts for one in part.asked)
        numbers = {one: number for number, one in enumerate(every)}
        of_kinds = [np.array([numbers[one] for one in part.asked], dtype=np.int32) for part in self._parts]
        codes = [codes[part.manifest.columns.kind] for part, codes in zip(self._parts, of_kinds, strict=True)]
        return list(numbers), self._column(codes)

    @property
    def counts(self) -> Counter[Asked]:
        """Number of utterances for each languages and task."""
        asked, codes = self.asked
        counts = np.bincount(codes, minlength=len(asked)).tolist()
        return Counter({one: count for one, count in zip(asked, counts, strict=True) if count})

    def where(self, test: Callable[[Asked], bool]) -> Places:
        """Indices of the utterances whose languages and task pass the test."""
        asked, codes = self.asked
        return np.flatnonzero(np.array([test(one) for one in asked])[codes])

    @property
    def by_split(self) -> dict[str, Places]:
        """Indices of the utterances of each split."""
        splits = list(dict.fromkeys(part.split for part in self._parts))
        codes = self._column(
            [np.full(len(part.manifest), splits.index(part.split), dtype=np.int32) for part in self._parts]
        )
        places = {split: np.flatnonzero(codes == number) for number, split in enumerate(splits)}
        return {split: own for split, own in places.items() if len(own)}

    def firsts(self) -> list[Utterance]:
        """The first utterance of each kind: for each languages and task, with and without an instruction of its own."""
        _, rows = np.unique(self._kinds, return_index=True)
        return [self[int(row)] for row in np.sort(rows)]

    def of_kinds(self, value: Callable[[Utterance], Value]) -> Iterator[Value]:
        """A value of each utterance that is the same for all utterances of its kind."""
        _, rows, numbers = np.unique(self._kinds, return_index=True, return_inverse=True)
        values = [value(self[int(row)]) for row in rows]
        return map(values.__getitem__, memoryview(numbers))  # type: ignore[arg-type]

    def written(self, columns: Sequence[str]) -> Iterator[list[bytes]] | None:
        """The fields of some columns of the manifests, each followed by a line feed, in blocks. None where the
        utterances have other values than the file, or are not in its order."""
        if not (all(part.is_as_written for part in self._parts) and (np.diff(self._rows) > 0).all()):
            return None
        borders = np.searchsorted(self._rows, self._starts)
        own = [
            self._rows[begin:end] - start
            for begin, end, start in zip(borders, borders[1:], self._starts, strict=False)
        ]
        return (
            block
            for part, rows in zip(self._parts, own, strict=True)
            for block in part.manifest.fields_of(columns, rows)
        )

    def not_seen(self) -> Places:
        """Indices of the utterances whose sound the lists of folders do not show; see `audio_places.unseen`."""
        return np.flatnonzero(self._column([part.not_seen() for part in self._parts]))

    def repeated_id(self) -> tuple[Utterance, Utterance] | None:
        """Two utterances of different manifests with the same id, the earlier one first; None where there are none."""
        if len(self._parts) == 1:
            return None
        ids = self.ids
        order = np.argsort(ids, kind="stable")
        shared = np.sort(order[1:][ids[order][1:] == ids[order][:-1]])
        for index in shared.tolist():
            utterance = self[index]
            for other in np.flatnonzero(ids[:index] == ids[index]).tolist():
                if self[other].row.id == utterance.row.id:
                    return self[other], utterance
        return None

    @property
    def _kinds(self) -> Codes:
        """A number for each utterance, the same for all of one kind and manifest."""
        offsets = np.cumsum([0, *(len(part.manifest.columns.kinds) for part in self._parts)], dtype=np.int32)
        return self._column(
            [part.manifest.columns.kind + offset for part, offset in zip(self._parts, offsets, strict=False)]
        )

    def _column(self, columns: list) -> np.ndarray:
        """:param columns: a column of all rows for each part."""
        return (columns[0] if len(columns) == 1 else np.concatenate(columns))[self._rows]


class Clips(Sequence[tuple[Utterance, float]]):
    """Utterances, each with the seconds that are used of it."""

    def __init__(self, utterances: Utterances, seconds: npt.NDArray[np.float64]) -> None:
        self.utterances, self.seconds = utterances, seconds

    def __len__(self) -> int:
        return len(self.utterances)

    @overload
    def __getitem__(self, index: int) -> tuple[Utterance, float]: ...
    @overload
    def __getitem__(self, index: slice) -> Clips: ...
    def __getitem__(self, index: int | slice) -> tuple[Utterance, float] | Clips:
        if isinstance(index, slice):
            return Clips(self.utterances[index], self.seconds[index])
        return self.utterances[index], float(self.seconds[index])

    def take(self, indices: Places) -> Clips:
        return Clips(self.utterances.take(indices), self.seconds[indices])

    def __iter__(self) -> Iterator[tuple[Utterance, float]]:
        return zip(self.utterances, self.seconds.tolist(), strict=True)
