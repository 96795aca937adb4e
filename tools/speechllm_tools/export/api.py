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
    """The checkpoint to export, with its options."""

    checkpoint: SavedSystem
    overrides: dict[str, Any]
    """Keys of the checkpoint's configuration to change, by dotted path."""
    flags: frozenset[str]
    """Names of the format's own options that were given."""


class Format(ABC):
    """A format, whose name on the command line is that of its file. Imports no torch before a method is called."""

    summary: ClassVar[str]
    """The files that are written, for `--help`."""
    flags: ClassVar[Mapping[str, str]] = {}
    """Options of the format without values, each with a line of help."""

    def __init__(self, export: Export) -> None:
        self.export = export

    @abstractmethod
    def check(self) -> None:
        """
        :raises UserError: the configuration shows that the system cannot be exported, or a package is missing.
        """

    @abstractmethod
    def write(self, folder: Path) -> str:
        """Fills an empty folder.

        :returns: a line about the files.
        :raises UserError: the system cannot be exported.
        """
