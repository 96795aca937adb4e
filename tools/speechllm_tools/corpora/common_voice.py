"""Common Voice: sentences read by volunteers, in any of its languages."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_tools.prepare.api import Corpus, Line, Sound, Target, add_root, add_splits, folder_of, splits_of
from speechllm_tools.prepare.common_voice_tables import UNQUOTED, add_unquote, unquote
from speechllm_tools.prepare.text_files import RAGGED, read_tsv, stem_of

_SPLITS = ("train", "dev", "test")
_MORE = ("validated", "other", "invalidated")


class CommonVoice(Corpus):
    summary = "Common Voice, any release: read sentences in one language, transcribed"
    description = "ROOT/{train,dev,test}.tsv and ROOT/clips/*.mp3, where ROOT is the folder of one language."

    example = "cv-corpus-17.0/de --output data"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_root(parser, "folder of one language, such as cv-corpus-17.0/de")
        parser.add_argument("--lang", help="language of speech and text (default: the folder's name)")
        add_splits(parser, f"{','.join(_SPLITS)}; there are also {', '.join(_MORE)}")
        add_unquote(parser)

    def __init__(self, options: argparse.Namespace) -> None:
        self._root = folder_of(options.root)
        self._lang = options.lang or self._root.name
        self._unquote = bool(options.unquote)
        known = [split for split in (*_SPLITS, *_MORE) if (self._root / f"{split}.tsv").is_file()]
        if options.splits is None and known:
            known = [split for split in known if split in _SPLITS]
            if not known:
                raise UserError(f"{self._root}: found no train.tsv, dev.tsv or test.tsv, expected one, or --splits")
        self._splits = splits_of(options, known, self._root)

    def sources(self) -> list[Path]:
        return [self._root / f"{split}.tsv" for split in self._splits]

    def lines(self) -> Iterator[Line]:
        for split in self._splits:
            table = self._root / f"{split}.tsv"
            for number, row in read_tsv(table, ("client_id", "path", "sentence")):
                yield self._line(f"{table}, line {number}", split, row, f"line-{number}")

    def _line(self, where: str, split: str, row: dict[str, str] | None, stand_in: str) -> Line:
        sentence = "" if row is None else row["sentence"]
        plain = unquote(sentence) if self._unquote else sentence
        name = stand_in if row is None else stem_of(row["path"])
        return Line(
            where=where, split=split, id=name, src_lang=self._lang, src_text=plain,
            speaker="" if row is None else row["client_id"], targets=[Target("transcribe", self._lang, plain)],
            sound=None if row is None else Sound(audio=str(self._root / "clips" / f"{name}.mp3")),
            reason=RAGGED if row is None else None, changes=(UNQUOTED,) if plain != sentence else (),
        )  # fmt: skip


CORPUS = CommonVoice
