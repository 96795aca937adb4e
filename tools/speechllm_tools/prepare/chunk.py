"""Measures and stores a few hundred clips in one process, and keeps the outcome in a file, for a run that goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from speechllm_plugin.datasets.audio import SAMPLE_RATE, AudioError, read_audio
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_tools.prepare.api import Line, is_test
from speechllm_tools.prepare.measure import MISSING, UNREADABLE, Measured, Unusable, measure, on_disk, source_of
from speechllm_tools.prepare.storage import Store, encode_flac, file_name, suffix_of

SHORT = "shorter than --min-seconds"
LONG = "longer than --max-seconds"
KEPT_IN_TEST = "test clips outside of --min-seconds and --max-seconds, kept"
LOUD = "clips beyond full scale, clipped in FLAC"


@dataclass(frozen=True, kw_only=True)
class ChunkOptions:
    audio: Literal["keep", "flac", "zip"]
    """Whether sound stays where it is, or becomes FLAC of 16 kHz in files or in archives. Sound inside other files goes
    into archives in any case."""
    zip_bytes: int
    """Most bytes of an archive."""
    min_seconds: float
    max_seconds: float
    """Longest clip; the limits do not apply to test splits."""
    sound: str
    """Folder of stored clips."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a line."""

    audio: str = ""
    channel: int | None = None
    """See `Sound.channel`."""
    seconds: float = 0.0
    reason: str | None = None
    """Why the line makes no rows."""
    message: str = ""
    """The message about the line."""
    changes: Sequence[str] = ()


@dataclass(frozen=True)
class ChunkTask:
    number: int
    lines: Sequence[Line]
    options: ChunkOptions
    file: Path
    """File in which the outcomes are kept."""


def run_chunk(task: ChunkTask) -> list[Outcome]:
    """The outcome of each line: kept by an earlier run, or else found and kept now.

    :raises UserError: the place cannot be written.
    """
    if task.file.exists():
        kept = [Outcome(**values) for values in json.loads(task.file.read_text(encoding="utf-8"))]
        if not any(map(_has_come, task.lines, kept)):
            return kept
    lines, options = task.lines, task.options
    in_archives = options.audio == "zip" or any(
        line.sound and (line.sound.data is not None or line.sound.cut_out) for line in lines
    )
    limit = options.zip_bytes if in_archives and options.audio != "flac" else None
    store = Store(Path(options.sound), task.number, limit)
    outcomes = [_outcome(place, line, options, store) for place, line in enumerate(lines)]
    store.close()
    write_text_atomically(task.file, json.dumps([vars(outcome) for outcome in outcomes]))
    return outcomes


def _has_come(line: Line, outcome: Outcome) -> bool:
    """Whether a file that was missing in an earlier run exists now."""
    return outcome.reason == MISSING and line.sound is not None and os.path.exists(line.sound.audio)


def _outcome(place: int, line: Line, options: ChunkOptions, store: Store) -> Outcome:
    if line.sound is None:
        assert line.reason is not None
        return Outcome(reason=line.reason, message=line.where, changes=tuple(line.changes))
    if not any(target.text.strip() or target.optional for target in line.targets):
        # The line makes no rows, as their counts will say, so its sound need not be read.
        return Outcome(message=line.where, changes=tuple(line.changes))
    try:
        with on_disk(line.sound) as sound:
            found = measure(sound)
            changes = (*line.changes, *found.changes)
            if not options.min_seconds <= found.seconds <= options.max_seconds:
                if not is_test(line.split):
                    reason = SHORT if found.seconds < options.min_seconds else LONG
                    raise Unusable(reason, f"{found.audio}: found {found.seconds:g} s")
                changes = (*changes, KEPT_IN_TEST)
            # Bytes of an archive's entry cannot be addressed as a segment.
            if options.audio != "keep" or (line.sound.cut_out and not found.whole):
                return _convert(place, line, replace(found, changes=changes), sound.channel, store)
        if line.sound.cut_out:
            found = replace(found, audio=line.sound.audio)
        if line.sound.data is not None:
            name = file_name(place, line.id, suffix_of(line.sound.audio, line.sound.data))
            found = replace(found, audio=store.add(name, line.sound.data))
        return Outcome(audio=found.audio, channel=line.sound.channel, seconds=found.seconds, changes=changes)
    except Unusable as error:
        return Outcome(reason=error.reason, message=f"{line.where}: {error.message}", changes=tuple(line.changes))


def _convert(place: int, line: Line, found: Measured, channel: int | None, store: Store) -> Outcome:
    """
    :raises Unusable: the sound cannot be decoded.
    """
    try:
        samples = read_audio(source_of(found.audio, channel))
    except AudioError as error:
        raise Unusable(UNREADABLE, str(error)) from None
    audio = store.add(file_name(place, line.id, ".flac"), encode_flac(samples))
    loud = (LOUD,) if float(np.abs(samples).max()) > 1 else ()
    return Outcome(audio=audio, seconds=len(samples) / SAMPLE_RATE, changes=(*found.changes, *loud))
