"""HeySQuAD (arXiv 2304.13689): questions of SQuAD 2 asked by people, to be answered from a written paragraph."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechllm_tools.prepare.api import Corpus, Line, Sound, add_root, add_splits, folder_of, splits_of
from speechllm_tools.prepare.parquet import NO_SOUND, count_rows, read_parquet, shards_of, sound_of
from speechllm_tools.prepare.squad import answer_of

UNANSWERABLE = "question that its paragraph does not answer"


class HeySquad(Corpus):
    summary = "HeySQuAD: spoken questions about a written paragraph, with their answers"
    # The layout is that of the hub's yijingwu/HeySQuAD_human.
    description = (
        "ROOT/data/SPLIT-*-of-*.parquet (or ROOT/SPLIT-*-of-*.parquet) with the columns audio, question, context, "
        "answers, id, as published on the hub. A row has the question as its transcript, the paragraph as its context, "
        "the first answer as tgt_text and others in the column references; questions without an answer make no rows."
    )
    example = "HeySQuAD_human --splits validation --output data"
    columns = ("task", "context", "references")

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_root(parser, "folder of the parquet shards, or the one above it")
        add_splits(parser, "train,validation")
        parser.add_argument("--transcripts", choices=("question", "transcription"), default="question",
                            help="the question as the speaker was given it, or the corpus' own transcription of what "
                            "was said (default: question)")  # fmt: skip

    def __init__(self, options: argparse.Namespace) -> None:
        root = folder_of(options.root)
        shards = shards_of(root / "data") or shards_of(root)
        self._shards = {split: shards[split] for split in splits_of(options, sorted(shards), root)}
        self._transcript = options.transcripts

    def sources(self) -> list[Path]:
        return [shard for shards in self._shards.values() for shard in shards]

    def splits(self) -> dict[str, int]:
        return {split: sum(map(count_rows, shards)) for split, shards in self._shards.items()}

    def lines(self) -> Iterator[Line]:
        for split, shards in self._shards.items():
            for shard in shards:
                for number, row in read_parquet(shard, ("audio", "id", "context", "answers", self._transcript)):
                    yield self._line(f"{shard}, row {number}", split, row)

    def _line(self, where: str, split: str, row: dict[str, Any]) -> Line:
        target = answer_of(row["answers"])
        sound = sound_of(row["audio"])
        reason = NO_SOUND if sound is None else None if target.text else UNANSWERABLE
        return Line(
            where=where, split=split, id=str(row["id"]), src_lang="en", src_text=row[self._transcript] or "",
            context=row["context"] or "", reason=reason, targets=[target],
            sound=None if reason is not None or sound is None else Sound(audio=sound[0], data=sound[1]),
        )  # fmt: skip


CORPUS = HeySquad
