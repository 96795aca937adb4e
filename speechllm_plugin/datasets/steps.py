"""The steps of an epoch: which clips share a batch, and which batches a step, in three arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
from typing_extensions import override

Step = list[list[int]]
"""The batches of a step; a batch is a list of its clips' numbers."""


class Steps(Sequence[Step]):
    def __init__(self, steps: Iterable[Sequence[Sequence[int]]] = ()) -> None:
        clips, batches, ends = array("q"), array("q"), array("q")
        for step in steps:
            for batch in step:
                clips.extend(batch)
                batches.append(len(clips))
            ends.append(len(batches))
        self._clips, self._batch_ends, self._ends = (
            np.frombuffer(values, dtype=np.int64) if values else np.empty(0, dtype=np.int64)
            for values in (clips, batches, ends)
        )

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> list[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | list[Step]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        first = int(self._ends[number - 1]) if number else 0
        ends = self._batch_ends[first : self._ends[number]].tolist()
        starts = [int(self._batch_ends[first - 1]) if first else 0, *ends]
        return [self._clips[start:end].tolist() for start, end in zip(starts, ends, strict=False)]

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Steps) and all(
            np.array_equal(own, others)
            for own, others in zip(
                (self._clips, self._batch_ends, self._ends), (other._clips, other._batch_ends, other._ends), strict=True
            )
        )

    @override
    def __repr__(self) -> str:
        return repr(list(self))

    def padding(
        self,
        filled: npt.NDArray[np.generic],
        largest: npt.NDArray[np.generic],
        number: npt.NDArray[np.generic] | None = None,
    ) -> float:
        """
        :param filled: what each clip has that is no padding.
        :param largest: the largest size of each clip, to which its batch is padded.
        :param number: how many sizes of each clip are padded; None = one.
        :returns: the share of padding in all batches.
        """
        if not len(self):
            return 0.0
        starts = np.concatenate([[0], self._batch_ends[:-1]])
        numbers = self._batch_ends - starts if number is None else np.add.reduceat(number[self._clips], starts)
        padded = np.maximum.reduceat(largest[self._clips].astype(np.float64), starts) @ numbers
        return 1 - float(filled[self._clips].astype(np.float64).sum()) / float(padded)
