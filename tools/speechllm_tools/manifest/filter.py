"""`speechllm manifest filter`: drops rows that harm training."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_tools.manifest.rows import (
    Row,
    add_audio_root,
    add_output,
    columns_of,
    folder_of,
    placed,
    read_rows,
    seconds_of_row,
    write_rows,
)
from speechllm_tools.prepare.api import is_test

SUMMARY = "leave out rows by duration or by the rate of their texts, counted; never from a test split"
# The limits of arXiv 2409.17044; the rate is from its authors' later code.
_VERDINI = {"min_seconds": 0.1, "max_seconds": 30.0, "max_words_per_minute": 700.0}


@dataclass(frozen=True)
class _Limit:
    option: str
    reason: str
    least: bool
    """Whether rows below the limit are dropped; otherwise those above it."""


_LIMITS = (
    _Limit("min_seconds", "shorter than {:g} s", True),
    _Limit("max_seconds", "longer than {:g} s", False),
    _Limit("min_chars_per_second", "fewer than {:g} characters a second", True),
    _Limit("max_chars_per_second", "more than {:g} characters a second", False),
    _Limit("max_words_per_minute", "more than {:g} words a minute", False),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="TSV manifest")
    add_output(parser)
    for limit in _LIMITS:
        parser.add_argument(f"--{limit.option.replace('_', '-')}", metavar="X", type=float,
                            help=f"drop rows of {limit.reason.replace('{:g}', 'X')}")
    parser.add_argument(
        "--preset", choices=("verdini",), help="the selection of arXiv 2409.17044 and its authors' code: 0.1 to 30 s, "
        "at most 700 words a minute",
    )  # fmt: skip
    add_audio_root(parser)
    parser.epilog = (
        "Rates are those of src_text, what is said, where a row has it, else of tgt_text. Words are what spaces "
        "separate, so their rate says nothing of languages without spaces."
    )


def run(options: argparse.Namespace) -> int:
    manifest: Path = options.manifest
    if is_test(manifest.name):
        raise UserError(f"{manifest}: found a test split, by its name, expected another: no row of it is dropped")
    limits = _limits_of(options)
    root = folder_of(manifest, options.audio_root)
    dropped: Counter[str] = Counter()
    story: dict[str, Any] = {"action": "filter", "limits": {limit.option: value for limit, value in limits.items()}}

    def kept() -> Iterator[dict[str, str]]:
        count = 0
        for row in read_rows(manifest):
            reason = _why_not(row, seconds_of_row(row, root), limits)
            if reason is None:
                count += 1
                yield placed(row, root, options.output, options.audio_root)
            else:
                dropped[reason] += 1
        story.update(read=count + dropped.total(), kept=count, dropped=dict(dropped.most_common()))

    write_rows(
        options.output, columns_of(manifest), kept(), inputs=[manifest], overwrite=options.overwrite, story=story
    )
    print(f"{options.output}: {story['kept']:,} of {story['read']:,} rows")
    for reason, number in dropped.most_common():
        print(f"  {number:,} dropped, {reason}")
    return 0


def _limits_of(options: argparse.Namespace) -> dict[_Limit, float]:
    """
    :raises UserError: no limit is set, or a limit is no number.
    """
    preset = _VERDINI if options.preset else {}
    values = {limit: getattr(options, limit.option) for limit in _LIMITS}
    limits = {
        limit: preset[limit.option] if value is None else value
        for limit, value in values.items()
        if value is not None or limit.option in preset
    }
    if not limits:
        raise UserError("filter: found no limit, expected one, such as --max-seconds 30")
    for limit, value in limits.items():
        if not 0 <= value < math.inf:
            raise UserError(f"--{limit.option.replace('_', '-')}: found {value:g}, expected a number of at least 0")
    return limits


def _why_not(row: Row, seconds: float, limits: dict[_Limit, float]) -> str | None:
    said = row.get("src_text") or row.get("tgt_text")
    for limit, value in limits.items():
        figure = {
            "seconds": seconds, "chars_per_second": len(said) / seconds,
            "words_per_minute": 60 * len(said.split()) / seconds,
        }[limit.option[4:]]  # fmt: skip
        if figure < value if limit.least else figure > value:
            return limit.reason.format(value)
    return None
