"""FLEURS (arXiv 2205.12446): the same sentences read in 102 languages."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path, PurePath

from speechllm_plugin.errors import UserError
from speechllm_plugin.text.languages import language_code
from speechllm_tools.prepare.api import (
    Corpus,
    Line,
    Sound,
    Target,
    add_root,
    add_splits,
    add_tasks,
    folder_of,
    splits_of,
    tasks_of,
)
from speechllm_tools.prepare.text_files import read_lines

_SPLITS = ("train", "dev", "test")
# Columns: id of the sentence, file, text as written, text without case and punctuation, ..., samples, gender.
_FEWEST_FIELDS = 6
BAD_LINE = "line with fewer columns than FLEURS has"


class Fleurs(Corpus):
    summary = "FLEURS: sentences of Wikipedia in one language, transcribed, or translated into another one"
    description = (
        "ROOT/LANG/SPLIT.tsv and the clips, unpacked, in ROOT/LANG/audio/SPLIT/ (or ROOT/LANG/SPLIT/), with LANG such "
        "as de_de. Translations are the sentences of the same number in the other language's SPLIT.tsv."
    )
    example = "fleurs --from de_de --to en_us --output data"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_root(parser, "folder with a folder for each language")
        parser.add_argument("--from", dest="source", metavar="LANG", required=True, help="language of the speech")
        parser.add_argument("--to", dest="target", metavar="LANG", help="language to translate into")
        add_splits(parser, ",".join(_SPLITS))
        add_tasks(parser)
        parser.add_argument("--normalized", action="store_true", help="texts in small letters, without punctuation")

    def __init__(self, options: argparse.Namespace) -> None:
        root = folder_of(options.root)
        self._folder = folder_of(root / options.source)
        self._target_folder = None if options.target is None else folder_of(root / options.target)
        self._tasks = tasks_of(options.tasks or ("transcribe" if options.target is None else None))
        if options.target is None and "translate" in self._tasks:
            raise UserError("--tasks: found translate without a language, expected --to LANG")
        self.rows_per_clip = len(self._tasks)
        self._languages = language_code(options.source), language_code(options.target or options.source)
        self._column = 3 if options.normalized else 2
        known = [split for split in _SPLITS if (self._folder / f"{split}.tsv").is_file()]
        self._splits = splits_of(options, known, self._folder)
        if self._target_folder is not None:
            for split in self._splits:
                if not (self._target_folder / f"{split}.tsv").is_file():
                    raise UserError(f"{self._target_folder}: found no {split}.tsv, expected the translations there")

    def sources(self) -> list[Path]:
        folders = [self._folder] + ([] if self._target_folder is None else [self._target_folder])
        return [folder / f"{split}.tsv" for split in self._splits for folder in folders]

    def lines(self) -> Iterator[Line]:
        for split in self._splits:
            translations = self._translations(split)
            table = self._folder / f"{split}.tsv"
            for number, text in read_lines(table):
                if text:
                    yield self._line(f"{table}, line {number}", split, text.split("\t"), translations, number)

    def _translations(self, split: str) -> dict[str, str]:
        """Translations by the number of their sentence, which several speakers may have read."""
        if self._target_folder is None:
            return {}
        rows = [text.split("\t") for _, text in read_lines(self._target_folder / f"{split}.tsv")]
        return {fields[0]: fields[self._column] for fields in rows if len(fields) >= _FEWEST_FIELDS}

    def _line(
        self, where: str, split: str, fields: list[str], translations: dict[str, str], number: int
    ) -> Line:
        source, target = self._languages
        good = len(fields) >= _FEWEST_FIELDS
        transcript = fields[self._column] if good else ""
        texts = {
            "transcribe": (source, transcript),
            "translate": (target, translations.get(fields[0], "") if good else ""),
        }
        return Line(
            where=where, split=split, id=PurePath(fields[1]).stem if good else f"line-{number}", src_lang=source,
            src_text=transcript, targets=[Target(task, *texts[task]) for task in self._tasks],
            sound=Sound(audio=str(self._clip(split, fields[1]))) if good else None, reason=None if good else BAD_LINE,
        )  # fmt: skip

    def _clip(self, split: str, name: str) -> Path:
        inside = self._folder / "audio" / split / name
        return inside if inside.exists() else self._folder / split / name


CORPUS = Fleurs
