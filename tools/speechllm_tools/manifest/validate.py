"""`speechllm manifest validate`: checks that every row can be read and has its stated length."""

from __future__ import annotations

import argparse
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from speechllm_plugin.datasets.audio import SAMPLE_RATE, AudioError, duration, read_audio, resolve
from speechllm_plugin.datasets.manifest import seconds_of
from speechllm_plugin.datasets.manifest_row import Rules, read_row
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.records import Record
from speechllm_plugin.files.remote import is_remote
from speechllm_tools.manifest.rows import REQUIRED, Row, add_audio_root, columns_of, folder_of, stated_seconds
from speechllm_tools.prepare.measure import Unusable
from speechllm_tools.prepare.text_files import count_lines, read_tsv
from speechllm_tools.prepare.zip_ranges import checked
from speechllm_tools.progress import ProgressLine
from speechllm_tools.shards.api import add_machines, machines_of, map_shards, shards_of

SUMMARY = "decode the sound of every row, and compare its length with what the row says"
_ROWS = 100
"""Rows that a process takes at a time."""
# Larger than a step of `n_frames`, and than the differences between decoders of mp3.
_TOLERANCE_SECONDS = 0.1


@dataclass
class _Finding:
    """The findings about one row."""

    line: int
    seconds: float = 0.0
    wrong: list[tuple[str, str]] = field(default_factory=list)
    """Errors, each with its column and message."""
    is_samples: bool = False
    """Whether `n_frames` is the number of samples."""
    composed: bool = True
    """Whether the texts are in Unicode's form NFC."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifests", metavar="MANIFEST", nargs="+", type=Path,
                        help="TSV manifests, which are to share no id")
    parser.add_argument("--headers-only", action="store_true",
                        help="believe the headers of sound files: quick, but finds no damage inside them")
    parser.add_argument("--empty-text", action="store_true", help="an empty tgt_text is silence, not a mistake")
    parser.add_argument("--show", metavar="N", type=int, default=10, help="lines for each column (default: 10)")
    add_audio_root(parser)
    add_machines(parser)


def run(options: argparse.Namespace) -> int:
    ids: dict[str, tuple[Path, int]] = {}
    bad = sum(_validate(manifest, ids, options) for manifest in options.manifests)
    if bad:
        raise UserError(f"found {bad:,} wrong rows, expected none")
    return 0


def _validate(manifest: Path, ids: dict[str, tuple[Path, int]], options: argparse.Namespace) -> int:
    """Prints all errors, and returns the number of wrong rows."""
    check = partial(_check_rows, options=(options.headers_only, options.empty_text),
                    root=folder_of(manifest, options.audio_root).absolute())  # fmt: skip
    machines = machines_of(options)
    wrong: Counter[str] = Counter()
    rows, bad, samples, uncomposed, seconds = 0, 0, 0, 0, 0.0
    total = count_lines(manifest) - 1
    lines: list[str] = []
    with ProgressLine(f"checking {manifest.name}") as progress:
        for shard, findings in map_shards(check, shards_of(_rows(manifest, ids), _ROWS), machines):
            for (_, found_by_id), finding in zip(shard, findings, strict=True):
                messages = [*found_by_id, *finding.wrong]
                bad += bool(messages)
                for column, message in messages:
                    wrong[column] += 1
                    if wrong[column] <= options.show:
                        lines.append(message)
                samples += finding.is_samples
                uncomposed += not finding.composed
                seconds += finding.seconds
            rows += len(shard)
            progress.update(f"{rows:,}/{total:,} rows", min(1.0, rows / max(1, total)))
    print("\n".join([*lines, f"{manifest}: {rows:,} rows, {seconds / 3600:.2f} h, {bad:,} wrong"]))
    for column, number in wrong.items():
        if number > options.show:
            print(f"  column {column!r}: {number - options.show:,} more like these")
    if samples:
        print(f"  column 'n_frames': {samples:,} rows count samples at 16 kHz, not frames of 10 ms; "
              "dataset.config_overrides.n_frames_unit=samples reads them")  # fmt: skip
    if uncomposed:
        print(f"  {uncomposed:,} rows have texts in another Unicode form than NFC: equal letters may differ")
    return bad


_Shard = list[tuple[Row | None, list[tuple[str, str]]]]


def _rows(manifest: Path, ids: dict[str, tuple[Path, int]]) -> Iterator[tuple[Row | None, list[tuple[str, str]]]]:
    """Rows with the errors of their ids and of their number of fields; ``None`` for a row with another number.

    :raises UserError: the file is no manifest, or has no row.
    """
    names = columns_of(manifest)
    row = None
    for line, fields in read_tsv(manifest, REQUIRED):
        row = Row(manifest, line, fields or {})
        if fields is None:
            message = f"found another number of fields, expected {len(names)}, {', '.join(names)}"
            yield None, [("fields", f"{manifest}, line {line}: {message}")]
            continue
        other = ids.setdefault(fields["id"], (manifest, line))
        if other != (manifest, line):
            yield row, [("id", f"{row.wrong('id', 'each id once')}; {other[0]}, line {other[1]} has it too")]
        else:
            yield row, []
    if row is None:
        raise UserError(f"{manifest}: found a header and no rows, expected at least one row")


def _check_rows(shard: _Shard, *, options: tuple[bool, bool], root: Path) -> list[_Finding]:
    return [_Finding(0) if row is None else _check(row, *options, root) for row, _ in shard]


def _check(row: Row, headers_only: bool, empty_text: bool, root: Path) -> _Finding:
    finding = _Finding(row.line)
    for column in REQUIRED:
        if not row.get(column).strip() and not (column == "tgt_text" and empty_text):
            finding.wrong.append((column, row.wrong(column, "some text")))
    texts = row.get("tgt_text") + row.get("src_text")
    finding.composed = unicodedata.is_normalized("NFC", texts)
    try:
        stated_seconds(row)
    except UserError as error:
        column = "duration" if row.get("duration") else "n_frames"
        finding.wrong.append((column, str(error)))
    _check_what_is_asked(row, finding, headers_only, root)
    try:
        finding.seconds = _true_seconds(row.get("audio"), headers_only, root)
    except (AudioError, Unusable) as error:
        message = error.reason + ": " + error.message if isinstance(error, Unusable) else str(error)
        finding.wrong.append(("audio", f"{row.manifest}, line {row.line}, column 'audio': {message}"))
        return finding
    if not any(column in ("duration", "n_frames") for column, _ in finding.wrong):
        _compare(row, finding)
    return finding


def _check_what_is_asked(row: Row, finding: _Finding, headers_only: bool, root: Path) -> None:
    """Adds the errors that training's reader has for the other columns."""
    try:
        asks = read_row(row.manifest, Record(row.line, row.fields), Rules(require_text=False)).asks
        for turn in asks.heard:
            _true_seconds(turn.audio, headers_only, root)
    except (AudioError, Unusable) as error:
        message = error.reason + ": " + error.message if isinstance(error, Unusable) else str(error)
        finding.wrong.append(("history", f"{row.manifest}, line {row.line}, column 'history': {message}"))
    except UserError as error:
        column = str(error).partition("column '")[2].partition("'")[0]
        if column not in {known for known, _ in finding.wrong}:
            finding.wrong.append((column, str(error)))


def _true_seconds(audio: str, headers_only: bool, root: Path) -> float:
    """
    :raises AudioError: the audio cannot be read.
    :raises Unusable: its range is no entry of its archive.
    """
    whole, moved = checked(audio if is_remote(audio) else str(root.absolute() / audio))
    if moved:
        raise Unusable("byte range that begins before its archive's entry", f"{audio}: expected {whole}")
    source = resolve(audio, root)
    return duration(source) if headers_only else len(read_audio(source)) / SAMPLE_RATE


def _compare(row: Row, finding: _Finding) -> None:
    """Compares each length that the row states with the true one."""
    true = finding.seconds
    stated: Sequence[tuple[str, float]] = [
        *([("duration", float(row.get("duration")))] if row.get("duration") else []),
        *([("n_frames", seconds_of(int(row.get("n_frames"))))] if row.get("n_frames") else []),
    ]
    for column, seconds in stated:
        if abs(seconds - true) <= _TOLERANCE_SECONDS:
            continue
        if column == "n_frames" and abs(int(row.get("n_frames")) / SAMPLE_RATE - true) <= _TOLERANCE_SECONDS:
            finding.is_samples = True
        expected = f"the length of its sound, {true:.2f} s"
        finding.wrong.append((column, row.wrong(column, expected, f"{row.get(column)!r}, which is {seconds:.2f} s")))
