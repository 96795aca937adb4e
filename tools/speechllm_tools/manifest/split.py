"""`speechllm manifest split`: divides a manifest into parts that share no clip, or no speaker."""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_tools.manifest.rows import Row, add_audio_root, columns_of, folder_of, placed, read_rows, write_rows

SUMMARY = "cut a manifest into parts, such as training and validation, that share no clip, or no speaker"
_SEGMENT = re.compile(r"(.+):[0-9]+:[0-9]+", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="TSV manifest")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the parts, NAME.tsv")
    parser.add_argument(
        "--parts", metavar="NAME=N,...", required=True,
        help="rows of each part; one has * for the rest, as in train=*,dev=500",
    )  # fmt: skip
    parser.add_argument(
        "--by", choices=("clip", "file", "speaker"), default="clip",
        help="what is never in two parts: a clip with all its rows; a file with all its segments, such as a talk; a "
        "speaker (default: clip)",
    )
    parser.add_argument("--seed", type=int, default=2, help="of the draw (default: 2)")
    parser.add_argument("--overwrite", action="store_true", help="replace manifests that are there")
    add_audio_root(parser)


def run(options: argparse.Namespace) -> int:
    sizes, rest = _parts(options.parts)
    groups: dict[str, list[Row]] = {}
    for row in read_rows(options.manifest):
        groups.setdefault(_group(row, options.by), []).append(row)
    chosen = _draw(groups, sizes, options.seed)
    left = [name for name in groups if not any(name in names for names in chosen.values())]
    wanted = {**chosen, rest: left} if rest is not None else chosen
    if empty := [name for name, names in wanted.items() if not names]:
        raise UserError(f"--parts: found no row for {empty[0]!r}, expected fewer rows in the others, or another --by")
    total = sum(map(len, groups.values()))
    for name, names in wanted.items():
        members = set(names)
        rows = _rows(options, (row for key, group in groups.items() if key in members for row in group), name)
        story = {"action": "split", "part": name, "parts": options.parts, "by": options.by, "seed": options.seed,
                 "groups": len(names), "rows": sum(len(groups[key]) for key in names)}  # fmt: skip
        output = options.output / f"{name}.tsv"
        write_rows(output, columns_of(options.manifest), rows, inputs=[options.manifest], overwrite=options.overwrite,
                   story=story)  # fmt: skip
        print(f"{output}: {story['rows']:,} of {total:,} rows, {story['groups']:,} of {len(groups):,} {options.by}s")
    if rest is None:
        print(f"{sum(len(groups[name]) for name in left):,} rows in no part")
    return 0


def _rows(options: argparse.Namespace, rows: Iterable[Row], name: str) -> Iterator[dict[str, str]]:
    root = folder_of(options.manifest, options.audio_root)
    # The rows keep the order of the manifest.
    for row in sorted(rows, key=lambda row: row.line):
        yield placed(row, root, options.output / f"{name}.tsv", options.audio_root)


def _parts(text: str) -> tuple[dict[str, int], str | None]:
    """Rows of each part, and the part that gets the rest.

    :raises UserError: the text is no such list.
    """
    sizes: dict[str, int] = {}
    rest = None
    for item in text.split(","):
        name, _, size = item.partition("=")
        if not name or "/" in name or name in sizes or name == rest or not (size == "*" or size.isdecimal()):
            raise UserError(f"--parts: found {item!r}, expected NAME=ROWS or NAME=*, each name once")
        if size == "*" and rest is not None:
            raise UserError(f"--parts: found * for {rest!r} and {name!r}, expected it once")
        if size == "*":
            rest = name
        else:
            sizes[name] = int(size)
    return sizes, rest


def _group(row: Row, by: str) -> str:
    """
    :raises UserError: the row has no speaker.
    """
    if by == "speaker":
        if not row.get("speaker"):
            raise UserError(row.wrong("speaker", "a name, for --by speaker"))
        return row.get("speaker")
    audio = row.get("audio")
    match = _SEGMENT.fullmatch(audio)
    # A range of an archive is a clip of its own, not a segment of a recording.
    return match[1] if by == "file" and match is not None and not match[1].lower().endswith(".zip") else audio


def _draw(groups: Mapping[str, Sequence[Row]], sizes: Mapping[str, int], seed: int) -> dict[str, list[str]]:
    """The groups of each part, drawn until it has at least its number of rows.

    :raises UserError: there are too few rows.
    """
    order = list(groups)
    random.Random(seed).shuffle(order)
    chosen: dict[str, list[str]] = {}
    for name, size in sizes.items():
        chosen[name] = []
        rows = 0
        while rows < size:
            if not order:
                raise UserError(f"--parts: found too few rows for {name}={size}, expected smaller parts")
            chosen[name].append(order.pop())
            rows += len(groups[chosen[name][-1]])
    return chosen
