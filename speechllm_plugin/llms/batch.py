"""What decodes rows: they join and leave between steps (continuous batching, as in Orca, OSDI 2022)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.joining import PromptRow


class Batch(ABC):
    """The one way to decode: a batch of files is rows that join at once, a server's come and go.

    After an error in a step the batch is of no more use.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Rows that have no text as yet."""

    @property
    @abstractmethod
    def joins(self) -> bool:
        """Whether a row that is added now begins at once."""

    @abstractmethod
    def add(
        self, rows: Sequence[PromptRow], *, keys: Sequence[str], limits: Sequence[int], config: DecodingConfig
    ) -> list[int]:
        """Takes rows, which are decoded from the next step on, or already before it. After an error it is as it was.

        :param keys: see `Llm.generate`.
        :param config: of these rows.
        :returns: a number for each.
        """

    @abstractmethod
    def drop(self, number: int) -> None:
        """Ends a row without a text."""

    @abstractmethod
    def step(self, *, patient: bool = False) -> dict[int, Generated]:
        """One more token for each row.

        :param patient: whether nobody waits for a row before the last one has its text: that costs less.
        :returns: what rows have been found to say, by their numbers.
        """

    def finish(self) -> dict[int, Generated]:
        """Steps until every row has its text."""
        found: dict[int, Generated] = {}
        while len(self):
            found.update(self.step(patient=True))
        return found
