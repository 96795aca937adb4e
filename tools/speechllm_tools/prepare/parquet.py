"""Reads parquet shards, in which Hugging Face's datasets are published, a few rows at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError

_SHARD = re.compile(r"(.+)-\d+-of-\d+\.parquet")
_ROWS = 64
"""Rows in memory at a time, which take some MB with their sound."""
NO_SOUND = "row that names no sound"
"""Reason of lines in which `sound_of` finds no sound."""


def shards_of(folder: Path) -> dict[str, list[Path]]:
    """The shards of each split in order, named `SPLIT-00000-of-00008.parquet`."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        if match := _SHARD.fullmatch(path.name):
            found.setdefault(match[1], []).append(path)
    return found


def count_rows(path: Path) -> int:
    return int(_open(path, ()).metadata.num_rows)


def read_parquet(path: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each row, counted from 1, and its fields.

    :raises UserError: pyarrow is not installed, the file is no parquet, or it lacks a column.
    """
    import pyarrow

    number = 0
    try:
        for batch in _open(path, required).iter_batches(batch_size=_ROWS):
            for fields in batch.to_pylist():
                number += 1
                yield number, fields
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}, after row {number}: cannot be read ({_line(error)}), expected parquet") from None


def sound_of(field: object) -> tuple[str, bytes | None] | None:
    """Name and bytes of a field with sound; ``None`` where it has none. The bytes are ``None`` in shards without
    embedded sound: the name is then a path, beside the shard or elsewhere."""
    if isinstance(field, str) and field:
        return field, None
    if isinstance(field, dict):
        name, data = field.get("path") or "", field.get("bytes")
        if name or data:
            return name, data or None
    return None


def _open(path: Path, required: Sequence[str]) -> Any:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(
            f"{path}: parquet needs pyarrow, which is not installed (pip install 'speechllm-plugin[data]')"
        ) from None
    try:
        file = ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read ({_line(error)}), expected parquet") from None
    names = file.schema_arrow.names
    if missing := [name for name in required if name not in names]:
        raise UserError(
            f"{path}: found columns {', '.join(map(repr, names))}, expected also {', '.join(map(repr, missing))}"
        )
    return file


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
