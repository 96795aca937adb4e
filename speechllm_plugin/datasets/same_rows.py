"""Whether a checkpoint is resumed over the rows that it was written over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from speechllm_plugin.datasets.speech_text import Utterance
from speechllm_plugin.errors import UserError
from speechllm_plugin.log import log
from speechllm_plugin.tasks.row_prompt import NOTHING
from speechllm_plugin.text.languages import language_code

# What the fingerprint of a plan says of its rows; the rest is how they are read.
_ROWS = {"clips", "seconds", "rows"}


def row_digests(utterances: Sequence[Utterance], seconds: Sequence[float], *, of_splits: bool) -> dict[str, str]:
    """A hash for each column of all rows in order. Of the audio it is the name, so that a corpus may move.

    :param seconds: of each row's clip.
    :param of_splits: whether it matters which split a row is in.
    """
    rows = [utterance.row for utterance in utterances]
    columns: dict[str, Iterable[object]] = {
        "id": (row.id for row in rows),
        "audio": (row.audio if row.channel is None else f"{row.audio} {row.channel}" for row in rows),
        "tgt_text": (row.tgt_text for row in rows),
        "src_text": (row.src_text for row in rows),
        "languages": [(language_code(one.source_lang), language_code(one.target_lang)) for one in utterances],
        "lengths": seconds,
    }
    if any(row.task for row in rows):
        columns["task"] = (row.task for row in rows)
    if any(row.asks != NOTHING for row in rows):
        columns["asks"] = (row.asks for row in rows)
    if of_splits:
        columns["split"] = (utterance.split for utterance in utterances)
    return {name: _digest(values) for name, values in columns.items()}


def without_rows(plan: object) -> object:
    return {key: value for key, value in plan.items() if key not in _ROWS} if isinstance(plan, Mapping) else plan


def are_new_rows(found: Mapping[str, Any], now: Mapping[str, Any], *, accept: bool) -> bool:
    """
    :param found: the fingerprint in the checkpoint.
    :param now: that of the rows at hand.
    :param accept: whether new rows are accepted.
    :raises UserError: they are new, and not accepted.
    """
    before = found.get("rows")
    same = [found.get(key) == now[key] for key in ("clips", "seconds")]
    if before is None and all(same):
        log.warning(
            "resume: the checkpoint was written by an earlier version and does not tell which rows it read; "
            "resumed over as many clips and seconds ({}, {}).", now["clips"], now["seconds"],
        )  # fmt: skip
        return False
    other = [name for name, digest in now["rows"].items() if (before or {}).get(name) != digest]
    if all(same) and not other:
        return False
    # The columns of more or fewer rows all differ.
    columns = f" with other {', '.join(other)}" if before and found.get("clips") == now["clips"] else ""
    line = (
        f"resume: the checkpoint was written over other rows: {found.get('clips')} clips, "
        f"{found.get('seconds')} s; found {now['clips']} clips, {now['seconds']} s{columns}"
    )
    if not accept:
        raise UserError(f"{line}; expected the same manifests in the same order, or dataset.accept_new_rows=true")
    log.warning("{}; accepted (dataset.accept_new_rows), and a new epoch begins.", line)
    return True


def _digest(values: Iterable[object]) -> str:
    content = hashlib.sha256()
    for value in values:
        # No field holds a line end.
        content.update(f"{value}\n".encode())
    return content.hexdigest()[:16]
