"""LibriSpeech: read English books."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from speechllm_tools.prepare.api import Corpus, Line, Sound, Target, add_root, add_splits, folder_of, splits_of
from speechllm_tools.prepare.text_files import read_lines

NO_TRANSCRIPT = "clip with no transcript"


class Librispeech(Corpus):
    summary = "LibriSpeech: read English books, transcribed"
    description = (
        "ROOT/SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside SPEAKER-CHAPTER-NUMBER.flac, with splits such as "
        "train-clean-100 and test-other."
    )
    example = "LibriSpeech --splits train-clean-100,dev-clean,test-clean --output data"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_root(parser, "folder with a folder for each split, usually called LibriSpeech")
        add_splits(parser, "all that are there")
        parser.add_argument(
            "--case", choices=("keep", "lower"), default="keep",
            help="transcripts are in capitals; lower puts them into small letters (default: keep)",
        )  # fmt: skip

    def __init__(self, options: argparse.Namespace) -> None:
        self._root = folder_of(options.root)
        self._lower = options.case == "lower"
        known = sorted(path.name for path in self._root.iterdir() if any(path.glob("*/*/*.trans.txt")))
        self._splits = splits_of(options, known, self._root)

    def sources(self) -> list[Path]:
        return [file for split in self._splits for file in self._tables(split)]

    def lines(self) -> Iterator[Line]:
        for split in self._splits:
            for table in self._tables(split):
                yield from self._chapter(split, table)

    def _tables(self, split: str) -> list[Path]:
        return sorted((self._root / split).glob("*/*/*.trans.txt"))

    def _chapter(self, split: str, table: Path) -> Iterator[Line]:
        untold = {path.stem: path for path in table.parent.glob("*.flac")}
        for number, text in read_lines(table):
            identity, _, words = text.partition(" ")
            sound = untold.pop(identity, table.parent / f"{identity}.flac")
            yield self._line(f"{table}, line {number}", split, identity, words, sound)
        for identity, path in sorted(untold.items()):
            yield self._line(str(path), split, identity, "", None)

    def _line(self, where: str, split: str, identity: str, words: str, sound: Path | None) -> Line:
        words = words.lower() if self._lower else words
        return Line(
            where=where, split=split, id=identity, src_lang="en", src_text=words, speaker=identity.partition("-")[0],
            targets=[Target("transcribe", "en", words)], reason=NO_TRANSCRIPT if sound is None else None,
            sound=None if sound is None else Sound(audio=str(sound)),
        )  # fmt: skip


CORPUS = Librispeech
