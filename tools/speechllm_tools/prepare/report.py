"""Reports on a preparation: a JSON file beside each manifest, and a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechllm_plugin.files.hashes import sha256_of


@dataclass
class RowCount:
    """Counts of rows of one kind, such as `translate en-de`: those read are those kept and those dropped."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass
class SplitReport:
    """The figures of a manifest."""

    rows: dict[str, RowCount] = field(default_factory=dict)
    clips: int = 0
    """Clips with at least one row."""
    seconds: float = 0.0
    """Seconds of these clips, each counted once."""
    characters: int = 0
    """Characters of `tgt_text` in all rows."""
    speakers: set[str] = field(default_factory=set)
    changed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """The first dropped line for each reason."""

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
    :raises UserError: a file cannot be read.
    """
    return {str(path): {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in files}


def table(reports: Mapping[str, SplitReport]) -> str:
    """A line for each kind of rows of each manifest, followed by the dropped and changed rows."""
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
    :param left: number of columns that are aligned to the left; others are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
