"""`speechllm cache show`: the encoders whose features a folder holds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechllm_plugin.encoders.feature_cache import IDENTITY
from speechllm_plugin.encoders.packs import Packs, kinds_in
from speechllm_plugin.errors import UserError
from speechllm_tools.prepare.report import columns


def show(folder: Path) -> int:
    """
    :raises UserError: it is no folder, or has no features.
    """
    rows = list(_rows(folder)) if folder.is_dir() else []
    if not rows:
        found = "no features in it" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: found {found}, expected dataset.feature_cache of a training run")
    print(columns([("folder", "encoder", "path", "precision", "clips", "GB", "last used"), *rows], left=4))
    return 0


def _rows(folder: Path) -> Iterator[tuple[str, ...]]:
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        identity = _identity(place / IDENTITY)
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(place.stat().st_mtime))
        for kind in kinds_in(place):
            size = sum(file.stat().st_size for file in place.glob(f"*.{kind}.*"))
            yield (
                place.name, str(identity.get("encoder", "?")), str(identity.get("path", "?")), kind,
                f"{len(Packs(place, kind)):,}", f"{size / 1e9:.2f}", used,
            )  # fmt: skip


def _identity(file: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # an earlier version wrote no description
    return values if isinstance(values, dict) else {}
