"""Prepares a corpus: divides its lines into chunks for processes, writes manifests whole, and does no work twice.

The outcomes of the processes are kept in `.preparing` below the output, in a file for each chunk, until all manifests
exist: after a kill the same command goes on where it was. Another command begins anew.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.files.remote import is_remote
from speechllm_tools.completion import begin, fingerprint
from speechllm_tools.prepare.api import Corpus, Line
from speechllm_tools.prepare.chunk import ChunkOptions, ChunkTask, run_chunk
from speechllm_tools.prepare.report import SplitReport, hashes, table
from speechllm_tools.prepare.rows import ManifestWriter
from speechllm_tools.prepare.writing import told
from speechllm_tools.progress import ProgressLine
from speechllm_tools.shards.api import add_machines, machines_of, map_shards

CHUNK = 500
"""Lines that a process takes at a time."""
CHUNK_BYTES = 32_000_000
"""Bytes of sound inside tables, which is sent between processes; a chunk ends with the line that reaches this limit."""
# Options that do not change the written files.
_ASIDE = {"workers", "ray", "overwrite", "output", "run", "action_run", "command", "action"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", metavar="DIR", type=Path, required=True,
        help="folder for the manifests, SPLIT.tsv, and what they were made of, SPLIT.json",
    )  # fmt: skip
    parser.add_argument(
        "--audio", choices=("keep", "flac", "zip"), default="keep",
        help="keep: the manifests name the corpus' own files; flac, zip: clips become FLAC files of 16 kHz, or such in "
        "stored zip archives, in a folder beside the manifests (default: keep)",
    )  # fmt: skip
    parser.add_argument(
        "--zip-gb", metavar="N", type=float, default=2.0,
        help=f"most GB in an archive; {CHUNK} clips begin a new one in any case (default: 2)",
    )
    parser.add_argument(
        "--audio-root", metavar="DIR", type=Path,
        help="write paths relative to this folder, for dataset.config_overrides.audio_root (default: absolute paths, "
        "and for what lies below --output paths relative to the manifest)",
    )
    parser.add_argument(
        "--min-seconds", metavar="S", type=float, help="drop shorter clips, but never from a test split"
    )
    parser.add_argument(
        "--max-seconds", metavar="S", type=float, help="drop longer clips, but never from a test split"
    )
    add_machines(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace manifests that are there; sound stored for them stays"
    )


def run(name: str, corpus: Corpus, options: argparse.Namespace) -> int:
    """
    :param name: name of the corpus.
    :raises UserError: the corpus is wrong, or the output cannot be written.
    """
    limits, machines = _limits(options), machines_of(options)
    print(f"{name}: reading the corpus' tables", flush=True)
    sources = hashes(corpus.sources())
    splits = corpus.splits()
    settings = {key: _plain(value) for key, value in sorted(vars(options).items()) if key not in _ASIDE}
    made_of = {
        "corpus": name, "version": version("speechllm-plugin"), "options": settings, "sources": sources,
        "lines": splits, "chunk": [CHUNK, CHUNK_BYTES],
    }  # fmt: skip
    mark = fingerprint(made_of)
    work = _begin(options.output, splits, mark, options.overwrite)
    chunk_options = ChunkOptions(
        audio=options.audio, zip_bytes=round(options.zip_gb * 1e9), min_seconds=limits[0], max_seconds=limits[1],
        sound=str(options.output.absolute() / f"sound-{mark[:8]}"),
    )  # fmt: skip

    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(ManifestWriter(work / f"{split}.tsv", corpus.rows_per_clip, corpus.columns))
            for split in splits
        }
        progress = stack.enter_context(ProgressLine("preparing"))
        total, done = sum(splits.values()), 0
        for task, outcomes in map_shards(run_chunk, _tasks(corpus.lines(), work, chunk_options), machines):
            for line, outcome in zip(task.lines, outcomes, strict=True):
                audio = _place(outcome.audio, options.output, options.audio_root)
                writers[line.split].add(line, replace(outcome, audio=audio))
            done += len(task.lines)
            progress.update(f"{done:,}/{total:,} lines", done / total)
    reports = {split: writer.report for split, writer in writers.items()}
    _finish(options.output, work, reports, made_of)
    print(table(reports))
    return 0


def _begin(output: Path, splits: Mapping[str, int], mark: str, overwrite: bool) -> Path:
    """Makes and returns the folder of unfinished work.

    :raises UserError: manifests of another preparation exist.
    """
    # An absolute path, since the processes of a cluster have another current folder.
    work = output.absolute() / ".preparing"
    started = work / ".started"
    goes_on = started.is_file() and started.read_text(encoding="utf-8") == mark
    there = [output / f"{split}.tsv" for split in splits if (output / f"{split}.tsv").exists()]
    if there and not overwrite and not goes_on:
        raise UserError(f"--output: found {there[0]}, expected no manifest at its place, or --overwrite")
    with told(work):
        begin(work, mark)
    kept = len(list(work.glob("*.json")))
    if kept:
        print(f"going on after {kept} chunks of up to {CHUNK} lines, which an earlier run finished", flush=True)
    return work


def _tasks(lines: Iterable[Line], work: Path, options: ChunkOptions) -> Iterator[ChunkTask]:
    """The tasks, one for each chunk of lines; chunks are the same in every run."""
    chunk: list[Line] = []
    number, size = 0, 0
    for line in lines:
        chunk.append(line)
        size += len(line.sound.data) if line.sound is not None and line.sound.data is not None else 0
        if len(chunk) == CHUNK or size >= CHUNK_BYTES:
            yield ChunkTask(number, chunk, options, work / f"{number:06d}.json")
            chunk, number, size = [], number + 1, 0
    if chunk:
        yield ChunkTask(number, chunk, options, work / f"{number:06d}.json")


def _finish(output: Path, work: Path, reports: Mapping[str, SplitReport], made_of: Mapping[str, Any]) -> None:
    """Moves the manifests to their places, then marks them as whole.

    :raises UserError: no row is left, or the place cannot be written.
    """
    if not any(report.kept for report in reports.values()):
        reasons = [
            f"{label}: {reason}, for instance {report.examples[reason]}"
            for report in reports.values()
            for label, count in report.rows.items()
            for reason in count.dropped
        ]
        shutil.rmtree(work)
        found = sum(report.read for report in reports.values())
        raise UserError(f"found none of {found:,} rows usable ({reasons[0] if reasons else 'no lines'})")
    for split, report in reports.items():
        if not report.kept:
            print(f"{split}: no manifest, for none of its {report.read:,} rows is usable", flush=True)
            continue
        with told(output / f"{split}.tsv"):
            with open(work / f"{split}.tsv", "rb") as file:
                os.fsync(file.fileno())
            os.replace(work / f"{split}.tsv", output / f"{split}.tsv")
        told_of = {"split": split, **made_of, **report.as_json()}
        write_text_atomically(output / f"{split}.json", json.dumps(told_of, indent=1, ensure_ascii=False) + "\n")
    shutil.rmtree(work)


def _place(audio: str, output: Path, root: Path | None) -> str:
    """The place of a clip in the form of the manifest."""
    if not audio or is_remote(audio):
        return audio
    if root is not None:
        return os.path.relpath(audio, root.absolute())
    inside = f"{output.absolute()}{os.sep}"
    return audio.removeprefix(inside)


def _limits(options: argparse.Namespace) -> tuple[float, float]:
    """
    :raises UserError: an option is outside its range.
    """
    shortest = 0.0 if options.min_seconds is None else options.min_seconds
    longest = math.inf if options.max_seconds is None else options.max_seconds
    if not 0 <= shortest <= longest:
        raise UserError(f"--min-seconds, --max-seconds: found {shortest:g} and {longest:g}, expected 0 <= min <= max")
    if not options.zip_gb > 0:
        raise UserError(f"--zip-gb: found {options.zip_gb:g}, expected more than 0")
    return shortest, longest


def _plain(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
