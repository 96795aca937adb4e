"""VoiceBench (arXiv 2410.17196): spoken requests of a dozen sets, for assistants that answer them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_tools.prepare.api import (
    Corpus,
    Line,
    Sound,
    Target,
    add_root,
    add_splits,
    folder_of,
    splits_of,
)
from speechllm_tools.prepare.parquet import NO_SOUND, count_rows, read_parquet, shards_of, sound_of


class VoiceBench(Corpus):
    summary = "VoiceBench: spoken requests, with reference answers where a set has them"
    # As on the hub, hlt-lab/voicebench; the sets' columns as VoiceBench's main.py and api_judge.py read them.
    description = (
        "ROOT/SET/SPLIT-*-of-*.parquet, as on the hub, with the columns audio and prompt, and reference where "
        "a set has one, as sd-qa has. Manifests are SET-SPLIT. A row has the prompt as its transcript; "
        "without a reference its tgt_text is empty, for a judge. Sets without these columns (mtbench, whose requests "
        "have several turns) cannot be chosen."
    )
    example = "voicebench --splits sd-qa-usa,alpacaeval-test --output data"
    columns = ("task",)

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_root(parser, "folder with a folder for each set")
        add_splits(parser, "all of sets that have the columns audio and prompt")

    def __init__(self, options: argparse.Namespace) -> None:
        root = folder_of(options.root)
        found = {
            f"{folder.name}-{split}": shards
            for folder in sorted(root.iterdir()) if folder.is_dir()
            for split, shards in shards_of(folder).items()
        }  # fmt: skip
        chosen = splits_of(options, [name for name in found if options.splits or _is_single(found[name][0])], root)
        self._shards = {name: found[name] for name in chosen}

    def sources(self) -> list[Path]:
        return [shard for shards in self._shards.values() for shard in shards]

    def splits(self) -> dict[str, int]:
        return {name: sum(map(count_rows, shards)) for name, shards in self._shards.items()}

    def lines(self) -> Iterator[Line]:
        for name, shards in self._shards.items():
            total = 0
            for shard in shards:
                for number, row in read_parquet(shard, ("audio", "prompt")):
                    total += 1
                    yield self._line(f"{shard}, row {number}", name, f"{name}-{total}", row)

    def _line(self, where: str, name: str, identity: str, row: dict[str, Any]) -> Line:
        sound = sound_of(row["audio"])
        reference = row.get("reference")
        return Line(
            where=where, split=name, id=identity, src_lang="en", src_text=row["prompt"] or "",
            targets=[Target("answer", "en", "" if reference is None else str(reference), optional=True)],
            reason=NO_SOUND if sound is None else None,
            sound=None if sound is None else Sound(audio=sound[0], data=sound[1]),
        )  # fmt: skip


def _is_single(shard: Path) -> bool:
    """Whether the requests of a shard have a single turn."""
    try:
        next(read_parquet(shard, ("audio", "prompt")), None)
    except UserError as error:
        if "expected also" in str(error):
            return False
        raise
    return True


CORPUS = VoiceBench
