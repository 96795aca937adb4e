"""Multilingual LibriSpeech (arXiv 2012.03411): read books in eight languages."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_plugin.text.languages import language_code
from speechllm_tools.prepare.api import Corpus, Line, Sound, Target, add_root, add_splits, folder_of, splits_of
from speechllm_tools.prepare.text_files import read_tsv

_SPLITS = ("train", "dev", "test")
_ENDINGS = (".flac", ".opus", ".wav", ".mp3", ".ogg")
BAD_LINE = "line that is not an id, a tab and a transcript"


class Mls(Corpus):
    summary = "Multilingual LibriSpeech: read books in one language, transcribed"
    description = (
        "ROOT/SPLIT/transcripts.txt and ROOT/SPLIT/audio/SPEAKER/BOOK/ID.flac (or .opus), where ROOT is mls_LANGUAGE."
    )
    example = "mls_german --max-seconds 20 --output data"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_root(parser, "folder of one language, such as mls_german")
        parser.add_argument("--lang", help="language of speech and text (default: by the folder's name)")
        add_splits(parser, ",".join(_SPLITS))

    def __init__(self, options: argparse.Namespace) -> None:
        self._root = folder_of(options.root)
        name = self._root.name.removesuffix("_opus").removeprefix("mls_")
        if options.lang is None and not self._root.name.startswith("mls_"):
            raise UserError(f"--lang: found none, and {self._root.name!r} is not mls_LANGUAGE, expected a language")
        self._lang: str = options.lang or language_code(name)
        known = [split for split in _SPLITS if (self._root / split / "transcripts.txt").is_file()]
        self._splits = splits_of(options, known, self._root)

    def sources(self) -> list[Path]:
        return [self._root / split / "transcripts.txt" for split in self._splits]

    def lines(self) -> Iterator[Line]:
        for split in self._splits:
            table = self._root / split / "transcripts.txt"
            for number, row in read_tsv(table, (), names=("id", "text")):
                yield self._line(f"{table}, line {number}", split, row or {}, f"line-{number}")

    def _line(self, where: str, split: str, row: dict[str, str], stand_in: str) -> Line:
        identity, words = row.get("id", stand_in), row.get("text", "")
        speaker, _, rest = identity.partition("_")
        sound = None
        if row:
            folder = self._root / split / "audio" / speaker / rest.partition("_")[0]
            files = [folder / f"{identity}{ending}" for ending in _ENDINGS]
            sound = Sound(audio=str(next((file for file in files if file.exists()), files[0])))
        return Line(
            where=where, split=split, id=identity, src_lang=self._lang, src_text=words, speaker=speaker if row else "",
            targets=[Target("transcribe", self._lang, words)], reason=None if row else BAD_LINE, sound=sound,
        )  # fmt: skip


CORPUS = Mls
