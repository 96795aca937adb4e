"""MuST-C: TED talks in English with translations, as segments of whole talks."""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from sys import intern
from typing import ClassVar, Literal, NamedTuple

from speechllm_plugin.errors import UserError
from speechllm_tools.prepare.api import (
    VERDINI,
    Corpus,
    Line,
    Sound,
    Target,
    Task,
    add_root,
    add_splits,
    add_tasks,
    folder_of,
    splits_of,
    tasks_of,
    words_of,
)
from speechllm_tools.prepare.text_files import count_lines, parse_seconds, read_lines, stem_of

_TRANSCRIPTS_OF = "en-de"
_PAIR = re.compile(r"(?P<source>[a-z]{2,3})-(?P<target>[\w-]+)")
BAD_TIMES = "segment whose offset or duration is no number of seconds"
# The form in all releases, matched in a fifth of the time of other maps.
_USUAL = re.compile(
    r"\{duration: (?P<duration>[\d.]+), offset: (?P<offset>[\d.]+), rW: \d+,(?: uW: \d+,)? speaker_id: "
    r"(?P<speaker>[\w.]+),(?: uW: \d+,)? wav: (?P<wav>[\w.-]+)\}"
)
# A `key: value` of a map, in braces or on its own line; the value is matched without quotation marks.
_FIELD = re.compile(r"""(\w+):\s*["']?([^\s"',}]+)""")


class Segment(NamedTuple):
    """The fields as the YAML file spells them."""

    line: int
    wav: str
    offset: str
    duration: str
    speaker: str


class Mustc(Corpus):
    summary = "MuST-C, releases 1 to 3: segments of TED talks with their translations"
    description = (
        "ROOT/en-XX/data/SPLIT/wav/*.wav and ROOT/en-XX/data/SPLIT/txt/SPLIT.{yaml,en,XX}; ROOT may be the folder of "
        "one pair, too. Talks stay whole: a manifest names segments of them, to the sample."
    )
    example = "must-c --pairs en-de --audio flac --output data"
    presets: ClassVar = {"verdini": {"pairs": "en-de,en-es,en-fr,en-it", "transcripts_of": "en-de", **VERDINI}}

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_root(parser, "folder with a folder for each pair, en-de, en-es, ...; or one of these")
        parser.add_argument("--pairs", metavar="A,B", help="such as en-de,en-fr (default: all that are there)")
        add_splits(parser, "all that are there")
        add_tasks(parser)
        parser.add_argument(
            "--transcripts-of", metavar="PAIR", help="the pair whose transcripts are taken with --tasks transcribe; "
            f"pairs share most talks (default: {_TRANSCRIPTS_OF}, or the first)",
        )  # fmt: skip
        parser.add_argument(
            "--ids", choices=("fbk", "fairseq"), default="fbk",
            help="the number in TALK_NUMBER counts the segments of a talk by offset, as numbers (fbk) or as text, "
            "where 10.5 comes before 8.0 (fairseq) (default: fbk)",
        )  # fmt: skip

    def __init__(self, options: argparse.Namespace) -> None:
        self._order: Literal["fbk", "fairseq"] = options.ids
        folders = _pairs_in(folder_of(options.root))
        names = list(folders) if options.pairs is None else words_of(options.pairs, "--pairs")
        if missing := [name for name in names if name not in folders]:
            raise UserError(f"--pairs: found {missing[0]!r}, expected some of {', '.join(folders)}, in {options.root}")
        transcripts_of = options.transcripts_of or (_TRANSCRIPTS_OF if _TRANSCRIPTS_OF in names else names[0])
        if transcripts_of not in names:
            raise UserError(f"--transcripts-of: found {transcripts_of!r}, expected one of {', '.join(names)}")
        tasks = tasks_of(options.tasks)
        self._tasks: dict[str, list[Task]] = {
            name: own
            for name in names
            if (own := [task for task in tasks if task == "translate" or name == transcripts_of])
        }
        self._folders = {name: folders[name] for name in self._tasks}
        self.rows_per_clip = sum(map(len, self._tasks.values()))
        there = {split for folder in self._folders.values() for split in _splits_in(folder)}
        known = sorted(there, key=lambda split: (split != "train", split != "dev", split))
        self._splits = splits_of(options, known, options.root)

    def sources(self) -> list[Path]:
        return [file for _, _, files in self._parts() for file in files]

    def lines(self) -> Iterator[Line]:
        for name, split, files in self._parts():
            yield from self._part(name, split, *files)

    def splits(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for _, split, files in self._parts():
            counts[split] += len(_segments(*files))
        return dict(counts)

    def _parts(self) -> Iterator[tuple[str, str, tuple[Path, Path, Path]]]:
        """Each pair and split with its three files."""
        for name, folder in self._folders.items():
            source, _, target = name.partition("-")
            for split in self._splits:
                stem = folder / "data" / split / "txt" / split
                if stem.parent.is_dir():
                    yield name, split, (Path(f"{stem}.yaml"), Path(f"{stem}.{source}"), Path(f"{stem}.{target}"))

    def _part(self, name: str, split: str, table: Path, source_file: Path, target_file: Path) -> Iterator[Line]:
        segments = _segments(table, source_file, target_file)
        numbers = number_segments(segments, self._order)
        folder = f"{table.parents[1] / 'wav'}{os.sep}"
        source, _, target = name.partition("-")
        texts = zip(read_lines(source_file), read_lines(target_file), strict=True)
        for segment, number, ((_, transcript), (_, translation)) in zip(segments, numbers, texts, strict=True):
            offset, seconds = parse_seconds(segment.offset), parse_seconds(segment.duration)
            good = offset is not None and seconds is not None and seconds > 0
            words = {"transcribe": (source, transcript), "translate": (target, translation)}
            yield Line(
                where=f"{table}, line {segment.line}", split=split, src_lang=source, src_text=transcript,
                id=f"{stem_of(segment.wav)}_{number}", speaker=segment.speaker,
                targets=[Target(task, *words[task]) for task in self._tasks[name]],
                sound=Sound(audio=folder + segment.wav, offset=offset, seconds=seconds) if good else None,
                reason=None if good else BAD_TIMES,
            )  # fmt: skip


def _segments(table: Path, source_file: Path, target_file: Path) -> list[Segment]:
    """
    :raises UserError: as `read_segments`; or the texts have another number of lines.
    """
    segments = list(read_segments(table))
    counts = [len(segments), count_lines(source_file), count_lines(target_file)]
    if len(set(counts)) > 1:
        raise UserError(
            f"{table}: found {counts[0]} segments, but {counts[1]} lines in {source_file.name} and {counts[2]} in "
            f"{target_file.name}, expected line N of each to belong to segment N"
        )
    return segments


def read_segments(table: Path) -> Iterator[Segment]:
    """The segments of a MuST-C YAML file, one map for each. It is a list of flat maps and is read without a YAML
    reader, which would take 98 s and 2.5 GB for the 250,000 segments of a training split.

    :raises UserError: a line is no part of such a list, or a segment lacks a key.
    """
    for number, text in _items(table):
        if (usual := _USUAL.fullmatch(text)) is not None:
            offset, duration, wav, speaker = usual["offset"], usual["duration"], usual["wav"], usual["speaker"]
            yield Segment(number, intern(wav), offset, duration, intern(speaker))
            continue
        fields = dict(_FIELD.findall(text))
        try:
            wav, offset, duration = fields["wav"], fields["offset"], fields["duration"]
        except KeyError as error:
            raise UserError(
                f"{table}, line {number}: found {text[:80]!r}, expected a segment with wav, offset and duration; "
                f"{error.args[0]} is not there"
            ) from None
        yield Segment(number, intern(wav), offset, duration, intern(fields.get("speaker_id", "")))


def number_segments(segments: Sequence[Segment], order: Literal["fbk", "fairseq"]) -> list[int]:
    """The number of each segment in its talk, by offset. Segments with the same offset keep the file's order."""
    talks: dict[str, list[int]] = {}
    for place, segment in enumerate(segments):
        talks.setdefault(segment.wav, []).append(place)
    numbers = [0] * len(segments)
    for places in talks.values():
        if order == "fairseq":
            places.sort(key=lambda place: segments[place].offset)
        else:
            places.sort(key=lambda place: parse_seconds(segments[place].offset) or Decimal(0))
        for number, place in enumerate(places):
            numbers[place] = number
    return numbers


def _items(table: Path) -> Iterator[tuple[int, str]]:
    """The maps of a list with the lines on which they begin; a map of several lines is one text."""
    begun, parts = 0, [""]
    for number, text in read_lines(table):
        if text.startswith("- "):
            if begun:
                yield begun, _joined(table, begun, parts)
            begun, parts = number, [text[2:]]
        elif text[:1] in (" ", "}") and begun:
            parts.append(text)
        elif text.strip() and not text.startswith(("#", "---", "...")):
            raise UserError(f"{table}, line {number}: found {text[:80]!r}, expected a list of segments, '- {{...}}'")
    if begun:
        yield begun, _joined(table, begun, parts)


def _joined(table: Path, number: int, parts: Sequence[str]) -> str:
    text = " ".join(parts)
    if text.startswith("{") and not text.endswith("}"):
        raise UserError(f"{table}, line {number}: found {text[:80]!r}, expected '}}' at its end")
    return text


def _pairs_in(root: Path) -> dict[str, Path]:
    """
    :raises UserError: there is no pair.
    """
    if (root / "data").is_dir() and _PAIR.fullmatch(root.name):
        return {root.name: root}
    found = {path.name: path for path in sorted(root.iterdir()) if _PAIR.fullmatch(path.name) and _splits_in(path)}
    if not found:
        raise UserError(f"{root}: found no en-XX/data/SPLIT/txt, expected the layout of MuST-C")
    return found


def _splits_in(folder: Path) -> list[str]:
    data = folder / "data"
    return [path.name for path in data.iterdir() if (path / "txt").is_dir()] if data.is_dir() else []


CORPUS = Mustc
