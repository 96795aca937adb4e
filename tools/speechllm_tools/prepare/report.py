"""What a preparation did, for each manifest: a JSON file beside it, and a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechllm_plugin.files.hashes import sha256_of


@dataclass
class RowCount:
    """Rows of one kind, such as `translate en-de`: read = kept + all that were dropped."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass
class SplitReport:
    """A manifest's figures."""

    rows: dict[str, RowCount] = field(default_factory=dict)
    clips: int = 0
    """Clips with at least one row."""
    seconds: float = 0.0
    """Of these clips, each once."""
    characters: int = 0
    """Of all rows' `tgt_text`."""
    speakers: set[str] = field(default_factory=set)
    changed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """The first line that was dropped, for each reason."""

    @property
    def kept(self) -> int:
        return sum(count.kept for count in self.rows.values())

    @property
    def read(self) -> int:
        return sum(count.read for count in self.rows.values())

    def add(self, label: str, reason: str | None, message: str) -> None:
        """Counts a row."""
        count = self.rows.setdefault(label, RowCount())
        count.read += 1
        if reason is None:
            count.kept += 1
            return
        count.dropped[reason] += 1
        self.examples.setdefault(reason, message)

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": {
                label: {"read": count.read, "kept": count.kept, "dropped": dict(count.dropped.most_common())}
                for label, count in self.rows.items()
            },
            "clips": self.clips,
            "hours": round(self.seconds / 3600, 4),
            "speakers": len(self.speakers),
            "characters": self.characters,
            "changed": dict(self.changed.most_common()),
            "first_dropped": self.examples,
        }


def hashes(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """
    :raises UserError: one cannot be read.
    """
    return {str(path): {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in files}


def table(reports: Mapping[str, SplitReport]) -> str:
    """One line for each kind of rows of each manifest, then what was dropped and changed."""
    header = ("manifest", "rows", "read", "kept", "dropped", "clips", "hours", "speakers", "characters")
    lines: list[Sequence[str]] = [header]
    for name, report in reports.items():
        for number, (label, count) in enumerate(report.rows.items()):
            whole = (
                f"{report.clips:,}", f"{report.seconds / 3600:.2f}", f"{len(report.speakers):,}",
                f"{report.characters:,}",
            ) if number == 0 else ("",) * 4
            dropped = count.dropped.total()
            lines.append((name if number == 0 else "", label, f"{count.read:,}", f"{count.kept:,}", f"{dropped:,}",
                          *whole))
    text = [columns(lines, left=2)]
    for name, report in reports.items():
        for label, count in report.rows.items():
            for reason, number in count.dropped.most_common():
                text.append(f"{name}, {label}: {number:,} dropped, {reason}; first: {report.examples[reason]}")
        text += [f"{name}: {number:,} {change}" for change, number in report.changed.most_common()]
    return "\n".join(text)


def columns(lines: Sequence[Sequence[str]], *, left: int) -> str:
    """
    :param left: so many columns begin at the left, the others end at the right.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
