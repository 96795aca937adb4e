"""Configurations that say what is wrong with their values."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from speechllm_plugin.errors import UserError


class Checked:
    """A configuration whose values, beyond their types, can be wrong."""

    @abstractmethod
    def problems(self) -> Iterator[str]:
        """Yields each problem as `key: found X, expected Y`, with the key as the configuration has it."""

    def check(self, key: str) -> None:
        """
        :param key: what holds the configuration, as the user would type it.
        :raises UserError: there are problems; one line names them all.
        """
        if problems := [f"{key}.{problem}" for problem in self.problems()]:
            raise UserError("; ".join(problems))
