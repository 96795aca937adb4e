"""The contract of a corpus, which generates lines, each with its rows or the reason why it has none."""

from __future__ import annotations

import argparse
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import ClassVar, Literal

from speechllm_plugin.errors import UserError

IN_ARCHIVE = re.compile(r"(?P<path>.+\.(?:zip|tar)):(?P<start>[0-9]+):(?P<length>[0-9]+)", re.IGNORECASE | re.DOTALL)
_TEST = re.compile(r"(?<![a-z])(test|tst)(?![a-z])")

Task = Literal["transcribe", "translate", "answer"]
TASKS: tuple[Task, ...] = ("transcribe", "translate")
"""Values of `--tasks`, for transcribed and translated corpora."""


VERDINI: Mapping[str, object] = {"tasks": "transcribe,translate", "min_seconds": 0.1, "max_seconds": 30.0}
"""Options that select what arXiv 2409.17044 takes from each corpus."""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """The place of a clip's sound, as its corpus states it; nothing has been opened."""

    audio: str
    """The place in the form of a manifest: a path (if relative, to the current folder), ``archive.zip:offset:length``
    (also of a tar archive), or ``path:start:length``. With `data`, the name of the bytes in the corpus."""

    channel: int | None = None
    """The one to hear, counted from 1; ``None`` = the mean of all."""

    offset: Decimal | None = None
    """Start of a segment of `audio`, in seconds; ``None`` = the whole file."""

    seconds: Decimal | None = None
    """Length of the segment; ``None`` = to the end of the file."""

    data: bytes | None = None
    """Bytes of the file, if it lies inside another one."""

    @property
    def cut_out(self) -> bool:
        """Whether it is a segment of a file inside another file, which a manifest cannot name."""
        return self.offset is not None and (self.data is not None or IN_ARCHIVE.fullmatch(self.audio) is not None)


@dataclass(frozen=True)
class Target:
    """The target text of a row that a line makes."""

    task: Task
    lang: str
    text: str
    optional: bool = False
    """Whether the row is valid without a text, as a question without a written answer is."""
    others: Sequence[str] = ()
    """Other texts that are equally right."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a corpus. It makes a row for each target, unless it has a `reason`."""

    where: str
    """File and line, for messages."""

    split: str
    """The manifest that gets the rows."""

    id: str
    targets: Sequence[Target]
    src_lang: str
    src_text: str = ""
    speaker: str = ""
    instruction: str = ""
    """The row's own instruction, if any, without a place for the speech."""
    context: str = ""
    """Text that the prompt has beside the speech."""
    sound: Sound | None = None
    reason: str | None = None
    """Why the line makes no rows, in a few words that are the same for all such lines; `sound` is then missing."""

    changes: Sequence[str] = ()
    """Changes that the corpus made to the line, which are counted."""

    def label(self, target: Target) -> str:
        """The label under which such rows are counted: `transcribe en`, `translate en-de`."""
        return f"{target.task} {self.direction(target)}"

    def direction(self, target: Target) -> str:
        return f"{self.src_lang}-{target.lang}" if target.task == "translate" else self.src_lang


class Corpus(ABC):
    """A corpus on disk, opened with the options that `add_arguments` declares."""

    summary: ClassVar[str]
    """One line of help."""

    description: ClassVar[str]
    """The expected layout, and the rows that are made from it."""

    example: ClassVar[str]
    """Arguments of a command that prepares it."""

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    """Selections of published systems by name: values for options that the user has not set."""

    columns: Sequence[str] = ()
    """Of `channel`, `task`, `instruction`, `context` and `references`, what its manifests have beside the usual
    columns."""

    rows_per_clip: int = 1
    """The most rows of a clip over the whole corpus. If there may be several, the direction is appended to ids:
    `ID.en`, `ID.en-de`."""

    @classmethod
    @abstractmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None: ...

    @abstractmethod
    def __init__(self, options: argparse.Namespace) -> None:
        """
        :raises UserError: there is no such corpus at that place.
        """

    @abstractmethod
    def sources(self) -> list[Path]:
        """The files that `lines` reads, except the sound; their hashes are kept."""

    @abstractmethod
    def lines(self) -> Iterator[Line]:
        """All lines of the chosen splits, in the same order every time.

        :raises UserError: a whole file cannot be used; a single line that cannot be used has a `reason`.
        """

    def splits(self) -> dict[str, int]:
        """Number of lines of each split. This reads all lines, and so finds wrong files before any work on sound."""
        return dict(Counter(line.split for line in self.lines()))


def add_root(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("root", metavar="ROOT", type=Path, help=text)


def add_splits(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--splits", metavar="A,B", help=f"splits to prepare, a manifest for each (default: {default})"
    )


def add_tasks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tasks", metavar="A,B",
        help="transcribe, translate or both, which makes two rows of a clip, ID.en and ID.en-de (default: translate)",
    )  # fmt: skip


def words_of(text: str, option: str) -> list[str]:
    """
    :raises UserError: the text is no list, or names something twice.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(words) or len(set(words)) < len(words):
        raise UserError(f"{option}: found {text!r}, expected names with commas between them, each once")
    return words


def tasks_of(text: str | None) -> list[Task]:
    """
    :param text: value of `--tasks`; ``None`` = translate.
    :raises UserError: there is no such task.
    """
    words = words_of(text or "translate", "--tasks")
    if wrong := [word for word in words if word not in TASKS]:
        raise UserError(f"--tasks: found {wrong[0]!r}, expected {' or '.join(TASKS)}")
    return [task for task in TASKS if task in words]


def splits_of(options: argparse.Namespace, known: Sequence[str], place: object) -> list[str]:
    """The chosen splits, in the order of the known ones; all splits without `--splits`.

    :raises UserError: there are no splits, or a chosen one does not exist.
    """
    if not known:
        raise UserError(f"{place}: found no split of the corpus, expected the layout that --help shows")
    if options.splits is None:
        return list(known)
    words = words_of(options.splits, "--splits")
    if wrong := [word for word in words if word not in known]:
        raise UserError(f"--splits: found {wrong[0]!r}, expected some of {', '.join(known)}, as in {place}")
    return [name for name in known if name in words]


def is_test(split: str) -> bool:
    """Whether a split, by its name, is for testing: `test`, `test-clean`, `tst-COMMON`, `en_test`; not `contest`."""
    return _TEST.search(split.lower()) is not None


def folder_of(root: Path) -> Path:
    """
    :raises UserError: it is no folder.
    """
    if not root.is_dir():
        raise UserError(f"{root}: found {'a file' if root.exists() else 'no such folder'}, expected a folder")
    return root.absolute()
