"""CoVoST 2 (arXiv 2007.10310): translations of Common Voice's clips."""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

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
from speechllm_tools.prepare.common_voice_tables import UNQUOTED, Clip, add_unquote, check_clips, clips_of, unquote
from speechllm_tools.prepare.parquet import NO_SOUND, count_rows, read_parquet, sound_of
from speechllm_tools.prepare.text_files import RAGGED, read_fields, stem_of

_SPLITS = ("train", "dev", "test")
# `train_covost` has clips that CoVoST adds to Common Voice's own training split.
_SPLIT_OF = {"train": "train", "train_covost": "train", "dev": "dev", "test": "test", "validation": "dev"}
_TABLE = re.compile(r"covost_v2\.(?P<source>[\w-]+)_(?P<target>[\w-]+)\.tsv")
_SHARD = re.compile(r"(?P<split>train|validation|dev|test)(-\d+-of-\d+(-[0-9a-f]+)?)?\.parquet")
NOT_VALIDATED = "clip that is not in validated.tsv"


@dataclass(frozen=True)
class _Pair:
    """A direction of translation, with its table or shards."""

    source: str
    target: str
    table: Path | None
    shards: Sequence[Path]

    @property
    def name(self) -> str:
        return f"{self.source}_{self.target}"


class Covost2(Corpus):
    summary = "CoVoST 2: Common Voice's clips with CoVoST's translations, or parquet shards with the sound inside"
    description = (
        "ROOT/LANG/validated.tsv and ROOT/LANG/clips/ of any release of Common Voice, and covost_v2.SRC_TGT.tsv in "
        "ROOT/SRC/, ROOT/ or --covost; or ROOT/SRC_TGT/SPLIT-*.parquet as published on Hugging Face. Clips that are "
        "not there are counted, so a part of them is enough."
    )
    example = "common-voice --pairs en_de,de_en --tasks transcribe,translate --output data"
    presets: ClassVar = {"verdini": {"pairs": "en_de,de_en,es_en,fr_en,it_en", **VERDINI}}

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_root(parser, "folder with a folder for each language (or pair, with parquet)")
        parser.add_argument("--covost", metavar="DIR", type=Path, help="where CoVoST's own tables lie")
        parser.add_argument("--pairs", metavar="A,B", help="such as en_de,de_en (default: all that are there)")
        add_splits(parser, ",".join(_SPLITS))
        add_tasks(parser)
        add_unquote(parser)

    def __init__(self, options: argparse.Namespace) -> None:
        self._root = folder_of(options.root)
        self._unquote = bool(options.unquote)
        self._splits = splits_of(options, _SPLITS, self._root)
        self._pairs = self._find(None if options.pairs is None else words_of(options.pairs, "--pairs"), options.covost)
        self._tasks = self._tasks_of_pairs(tasks_of(options.tasks))
        self._pairs = [pair for pair in self._pairs if self._tasks[pair.name]]
        self.rows_per_clip = sum(map(len, self._tasks.values()))

    def sources(self) -> list[Path]:
        files: list[Path] = []
        for pair in self._pairs:
            files += [*pair.shards] if pair.table is None else [pair.table, self._validated(pair)]
        return list(dict.fromkeys(files))

    def lines(self) -> Iterator[Line]:
        for pair in self._pairs:
            yield from self._shard_lines(pair) if pair.table is None else self._table_lines(pair, pair.table)

    def splits(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for pair in self._pairs:
            if pair.table is not None:
                check_clips(self._validated(pair))
                counts.update(split or self._splits[0] for _, _, _, split in self._table_rows(pair.table))
            for split, shard in self._shards(pair):
                counts[split] += count_rows(shard)
        return dict(counts)

    def _find(self, chosen: list[str] | None, covost: Path | None) -> list[_Pair]:
        """
        :raises UserError: a chosen pair is missing, or there is none.
        """
        places = [covost.absolute()] if covost is not None else [self._root, *_folders(self._root)]
        found: dict[str, _Pair] = {}
        for place in places:
            for file in sorted(place.glob("covost_v2.*.tsv")) if place.is_dir() else ():
                if (match := _TABLE.fullmatch(file.name)) is not None:
                    pair = _Pair(match["source"], match["target"], file, ())
                    found.setdefault(pair.name, pair)
        for folder in _folders(self._root):
            source, _, target = folder.name.partition("_")
            shards = sorted(file for file in folder.glob("*.parquet") if _SHARD.fullmatch(file.name))
            if target and shards:
                found.setdefault(folder.name, _Pair(source, target, None, shards))
        names = list(found) if chosen is None else chosen
        if missing := [name for name in names if name not in found]:
            raise UserError(
                f"--pairs: found {missing[0]!r}, expected some of {', '.join(found) or 'none'}, as in {places[0]}"
            )
        if not names:
            raise UserError(
                f"{places[0]}: found no covost_v2.SRC_TGT.tsv and no SRC_TGT/SPLIT-*.parquet, expected one of them"
            )
        return [found[name] for name in names]

    def _tasks_of_pairs(self, tasks: list[Task]) -> dict[str, list[Task]]:
        """The tasks of each pair. Transcripts come only with the first pair of a language, since all pairs have the
        same."""
        seen: set[str] = set()
        chosen = {}
        for pair in self._pairs:
            own = [task for task in tasks if task == "translate" or pair.source not in seen]
            seen.add(pair.source)
            chosen[pair.name] = own
        return chosen

    def _validated(self, pair: _Pair) -> Path:
        return self._root / pair.source / "validated.tsv"

    def _table_rows(self, table: Path) -> Iterator[tuple[int, str, str, str]]:
        """Line, path, translation and split of each row of chosen splits. A row with another number of columns has
        empty values, since its split is unknown.

        :raises UserError: there is no such table, or a split has an unknown name.
        """
        for number, row in read_fields(table, ("path", "translation", "split")):
            if row is None:
                yield number, "", "", ""
                continue
            path, translation, name = row
            split = _SPLIT_OF.get(name)
            if split is None:
                raise UserError(
                    f"{table}, line {number}, column 'split': found {name!r}, expected "
                    f"{', '.join(list(_SPLIT_OF)[:4])}"
                )
            if split in self._splits:
                yield number, path, translation, split

    def _table_lines(self, pair: _Pair, table: Path) -> Iterator[Line]:
        rows = [(number, stem_of(path), text, split) for number, path, text, split in self._table_rows(table)]
        clips = clips_of(self._validated(pair), {identity for _, identity, _, _ in rows})
        folder = f"{self._root / pair.source / 'clips'}{os.sep}"
        for number, identity, translation, split in rows:
            where = f"{table}, line {number}"
            clip = clips.get(identity)
            if not split:
                # A row of unknown split is counted in the first one, where most lines are.
                yield self._line(pair, where, self._splits[0], f"line-{number}", "", None, None, RAGGED)
            elif clip is None:
                yield self._line(pair, where, split, identity, translation, None, None, NOT_VALIDATED)
            else:
                sound = Sound(audio=f"{folder}{identity}.mp3")
                yield self._line(pair, where, split, identity, translation, clip, sound, None)

    def _shards(self, pair: _Pair) -> Iterator[tuple[str, Path]]:
        for shard in pair.shards:
            match = _SHARD.fullmatch(shard.name)
            assert match is not None
            if (split := _SPLIT_OF[match["split"]]) in self._splits:
                yield split, shard

    def _shard_lines(self, pair: _Pair) -> Iterator[Line]:
        for split, shard in self._shards(pair):
            for number, row in read_parquet(shard, ("audio", "sentence", "translation")):
                where = f"{shard}, row {number}"
                clip = Clip(str(row["sentence"] or ""), str(row.get("client_id") or ""))
                found = sound_of(row["audio"])
                name = found[0] if found else ""
                identity = str(row.get("id") or stem_of(str(row.get("file") or name)))
                translation = str(row["translation"] or "")
                if found is None or not identity:
                    yield self._line(pair, where, split, identity, translation, clip, None, NO_SOUND)
                    continue
                audio = name if found[1] is not None else str(shard.parent / name)
                sound = Sound(audio=audio, data=found[1])
                yield self._line(pair, where, split, identity, translation, clip, sound, None)

    def _line(
        self, pair: _Pair, where: str, split: str, identity: str, translation: str, clip: Clip | None,
        sound: Sound | None, reason: str | None,
    ) -> Line:  # fmt: skip
        sentence = "" if clip is None else clip.sentence
        changes: Sequence[str] = ()
        if self._unquote and (plain := unquote(sentence)) != sentence:
            sentence, changes = plain, (UNQUOTED,)
        texts = {"transcribe": (pair.source, sentence), "translate": (pair.target, translation)}
        return Line(
            where=where, split=split, id=identity, src_lang=pair.source, src_text=sentence, sound=sound, reason=reason,
            targets=[Target(task, *texts[task]) for task in self._tasks[pair.name]], changes=changes,
            speaker="" if clip is None else clip.speaker,
        )  # fmt: skip


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


CORPUS = Covost2
