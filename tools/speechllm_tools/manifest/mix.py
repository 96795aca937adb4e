"""`speechllm manifest mix`: several manifests as one."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_tools.manifest.rows import (
    add_audio_root,
    add_output,
    columns_of,
    folder_of,
    placed,
    read_rows,
    seconds_of_row,
    write_rows,
)

SUMMARY = "put manifests together, or parts of them, with ids that differ and paths that hold"


@dataclass(frozen=True)
class _Input:
    manifest: Path
    share: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "manifests", metavar="MANIFEST[=SHARE]", nargs="+",
        help="TSV manifests; with a share from 0 to 1, such as covost.tsv=0.25, so large a random part of its rows",
    )  # fmt: skip
    add_output(parser)
    parser.add_argument("--prefix-ids", action="store_true",
                        help="put the manifest's number and name before each id, for manifests that share ids")
    parser.add_argument("--seed", type=int, default=2, help="of the draw (default: 2)")
    add_audio_root(parser)


def run(options: argparse.Namespace) -> int:
    inputs = [_input(item) for item in options.manifests]
    columns = list(dict.fromkeys(column for one in inputs for column in columns_of(one.manifest)))
    figures: list[dict[str, object]] = []

    def rows() -> Iterator[dict[str, str]]:
        seen: dict[str, tuple[Path, int]] = {}
        for number, one in enumerate(inputs, start=1):
            draw = random.Random(f"{options.seed}:{number}")
            root = folder_of(one.manifest, options.audio_root)
            read, kept, seconds = 0, 0, 0.0
            for row in read_rows(one.manifest):
                read += 1
                if draw.random() >= one.share:
                    continue
                identity = f"{number}-{one.manifest.stem}-{row.get('id')}" if options.prefix_ids else row.get("id")
                if (other := seen.setdefault(identity, (one.manifest, row.line))) != (one.manifest, row.line):
                    raise UserError(
                        f"{row.wrong('id', 'ids that differ')}; {other[0]}, line {other[1]} has it too "
                        "(--prefix-ids makes them differ)"
                    )
                kept += 1
                seconds += seconds_of_row(row, root)
                yield placed(row, root, options.output, options.audio_root) | {"id": identity}
            figures.append({"manifest": str(one.manifest), "share": one.share, "read": read, "kept": kept,
                            "hours": round(seconds / 3600, 4)})  # fmt: skip

    story = {"action": "mix", "seed": options.seed, "manifests": figures}
    inputs_read = [one.manifest for one in inputs]
    write_rows(options.output, columns, rows(), inputs=inputs_read, overwrite=options.overwrite, story=story)
    for figure in figures:
        print(f"  {figure['manifest']}: {figure['kept']:,} of {figure['read']:,} rows, {figure['hours']:.2f} h")
    print(f"{options.output}: {sum(int(str(figure['kept'])) for figure in figures):,} rows")
    return 0


def _input(item: str) -> _Input:
    """
    :raises UserError: there is no such manifest, or the share is not above 0 and at most 1.
    """
    name, separator, text = item.rpartition("=")
    if not separator or Path(item).exists():
        return _Input(Path(item), 1.0)
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise UserError(f"{name}: found the share {text!r}, expected a number above 0 and up to 1")
    return _Input(Path(name), share)
