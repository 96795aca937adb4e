"""Writes the rows of a manifest one by one, with the columns that the recipe reads."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from speechllm_plugin.datasets.manifest import frames_of
from speechllm_plugin.files.text_list import write_text_list
from speechllm_tools.prepare.api import Line, Target
from speechllm_tools.prepare.chunk import Outcome
from speechllm_tools.prepare.report import SplitReport
from speechllm_tools.prepare.writing import told

COLUMNS = ("id", "audio", "n_frames", "duration", "tgt_text", "src_text", "speaker", "src_lang", "tgt_lang")

EMPTY = {"transcribe": "empty transcript", "translate": "empty translation", "answer": "empty answer"}
REPEATED = "an id that an earlier row has"
BROKEN_NAME = "a tab or line end in the id or the path"
NUL = "a text or a path with U+0000"
NO_UTF8 = "a text or a path that UTF-8 cannot hold"
_BREAKS = re.compile(r"[\t\r\n]+")
_COMPOSED = "texts put into Unicode's composed form (NFC)"
_UNBROKEN = "texts whose tabs and line ends became spaces"
_STRIPPED = "texts without the spaces around them"


class ManifestWriter:
    """Writes the rows of one split to `file`, which the caller moves to its place.

    :param rows_per_clip: if above 1, the direction is appended to ids.
    :param more: see `Corpus.columns`.
    :raises UserError: the place cannot be written.
    """

    def __init__(self, file: Path, rows_per_clip: int, more: Sequence[str] = ()) -> None:
        self._more = more
        self.report = SplitReport()
        self._file = file
        self._plain_ids = rows_per_clip == 1
        self._ids: set[str] = set()
        with told(file):
            self._output = file.open("w", encoding="utf-8", newline="")
            self._output.write("\t".join((*COLUMNS, *more)) + "\n")

    def __enter__(self) -> ManifestWriter:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with told(self._file):
            self._output.close()

    def add(self, line: Line, outcome: Outcome) -> None:
        """
        :param outcome: its `audio` is the place in the form of the manifest.
        """
        report = self.report
        report.changed.update(outcome.changes)
        src_text = self._clean(line.src_text)
        shared = {"instruction": self._clean(line.instruction), "context": self._clean(line.context)}
        kept = 0
        for target in line.targets:
            text = src_text if target.text == line.src_text else self._clean(target.text)
            identity = line.id if self._plain_ids else f"{line.id}.{line.direction(target)}"
            others = [self._clean(other) for other in dict.fromkeys(target.others)]
            channel = "" if outcome.channel is None else str(outcome.channel)
            references = write_text_list([one for one in others if one != text])
            own = {"channel": channel, "task": target.task, "references": references}
            fields = (
                identity, outcome.audio, str(frames_of(outcome.seconds)), seconds_text(outcome.seconds), text,
                src_text, self._clean(line.speaker), line.src_lang, target.lang,
                *((shared | own)[name] for name in self._more),
            )  # fmt: skip
            reason = outcome.reason or self._why_not(target, fields)
            report.add(line.label(target), reason, outcome.message or line.where)
            if reason is not None:
                continue
            self._ids.add(identity)
            with told(self._file):
                self._output.write("\t".join(fields) + "\n")
            report.characters += len(text)
            kept += 1
        if kept:
            report.clips += 1
            report.seconds += outcome.seconds
            if line.speaker:
                report.speakers.add(line.speaker)

    def _why_not(self, target: Target, fields: tuple[str, ...]) -> str | None:
        if not fields[COLUMNS.index("tgt_text")] and not target.optional:
            return EMPTY[target.task]
        row = "".join(fields)
        if _BREAKS.search(row):
            return BROKEN_NAME
        if "\0" in row:
            return NUL
        try:
            row.encode()
        except UnicodeEncodeError:
            return NO_UTF8
        return REPEATED if fields[0] in self._ids else None

    def _clean(self, text: str) -> str:
        if text.isascii() and text.isprintable() and text == text.strip():
            return text
        for change, how in ((_COMPOSED, _compose), (_UNBROKEN, unbroken), (_STRIPPED, str.strip)):
            if (after := how(text)) != text:
                self.report.changed[change] += 1
                text = after
        return text


def seconds_text(seconds: float) -> str:
    """Seconds with six decimals, which are far more exact than a sample at 16 kHz."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def _compose(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def unbroken(text: str) -> str:
    """The text with spaces in place of tabs and line ends, which a row of a manifest cannot hold."""
    return _BREAKS.sub(" ", text)
