"""Finds entries of tar archives, which manifests address by their bytes, like those of zip archives."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_tools.prepare.measure import MISSING

NOT_INSIDE = "row whose sound is not in its archive"
NO_SHARD = "row without a shard_id"
_MANIFEST = re.compile(r"manifest_(\d+)")
# NeMo's ending for further segments of a file that is in the archive once.
_SUB = re.compile(r"-sub\d+$")


def members_of(tar: Path) -> Mapping[str, str]:
    """
    :returns: the place of each file, ``x.tar:offset:length``, by its name without ending.
    :raises UserError: it is no tar archive, or a compressed one.
    """
    try:
        status = tar.stat()
        return _members(str(tar.absolute()), status.st_size, status.st_mtime_ns)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{tar}: cannot be read ({error}), expected a tar archive that is not compressed") from None


@lru_cache(maxsize=4)
def _members(tar: str, _size: int, _changed: int) -> Mapping[str, str]:
    with tarfile.open(tar, "r:") as archive:
        return {
            _stem(member.name): f"{tar}:{member.offset_data}:{member.size}"
            for member in archive
            if member.isreg() and not member.name.endswith((".json", ".nodata", ".nometa"))
        }


def nemo_row(row: Mapping[str, Any], name: str, table: Path, folder: Path | None) -> dict[str, Any] | str:
    """A row of NeMo's ``tarred_audio_manifest.json`` or ``sharded_manifests/manifest_0.json`` with the place of its
    sound in ``audio_0.tar``; or the reason why it has none.

    :param name: name of the column with the entry's name.
    :param folder: folder of the archives; ``None`` = that of the table, or the one above it.
    """
    shard = row.get("shard_id")
    if shard is None and (match := _MANIFEST.fullmatch(table.stem)):
        shard = match[1]
    if shard is None:
        return NO_SHARD
    folders = [table.parent, table.parent.parent] if folder is None else [folder]
    tar = next((place / f"audio_{shard}.tar" for place in folders if (place / f"audio_{shard}.tar").is_file()), None)
    if tar is None:
        return MISSING
    stem = _stem(str(row.get(name) or ""))
    members = members_of(tar)
    audio = members.get(stem) or members.get(_SUB.sub("", stem))
    return NOT_INSIDE if audio is None else {"id": stem, **row, name: audio}


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]
