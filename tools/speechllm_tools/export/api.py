"""The contract of a format that systems are exported to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from speechllm_plugin.models.speech_llm.saved_system import SavedSystem


@dataclass(frozen=True)
class Export:
    """What is exported."""

    checkpoint: SavedSystem
    overrides: dict[str, Any]
    """Keys of its configuration to change, by dotted path."""
    flags: frozenset[str]
    """Those of the format's own that were given."""


class Format(ABC):
    """Its name on the command line is that of its file. Imports no torch before a method is called."""

    summary: ClassVar[str]
    """What is written, for `--help`."""
    flags: ClassVar[Mapping[str, str]] = {}
    """Options of its own, without values: a line of help by name."""

    def __init__(self, export: Export) -> None:
        self.export = export

    @abstractmethod
    def check(self) -> None:
        """
        :raises UserError: the system cannot be exported, as far as its configuration tells; or a package is missing.
        """

    @abstractmethod
    def write(self, folder: Path) -> str:
        """Fills an empty folder.

        :returns: a line on what was written.
        :raises UserError: the system cannot be exported.
        """
