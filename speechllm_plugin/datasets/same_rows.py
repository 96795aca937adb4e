"""Whether a checkpoint is resumed over the rows that it was written over."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from itertools import islice
from typing import Any

from speechllm_plugin.datasets.measured import Seconds
from speechllm_plugin.datasets.utterances import Utterance, Utterances
from speechllm_plugin.errors import UserError
from speechllm_plugin.log import log
from speechllm_plugin.text.languages import language_code

# Keys of a plan's fingerprint that describe its rows; the other keys describe how they are read.
_ROWS = {"clips", "seconds", "rows"}
_WRITTEN = ("id", "audio", "tgt_text", "src_text")
"""Columns of the manifest; all other values follow from a row's kind, except for a prompt of its own."""
_BLOCK = 4096
"""Rows that are read together."""


def row_digests(utterances: Utterances, seconds: Seconds, *, of_splits: bool) -> dict[str, str]:
    """A hash for each column over all rows in order. The column of audio is hashed by name, so that a corpus may move.

    :param seconds: lengths of the rows' clips.
    :param of_splits: whether it matters which split a row is in.
    """
    columns: dict[str, Callable[[Utterance], object]] = {
        "id": lambda one: one.row.id,
        "audio": lambda one: one.row.audio if one.row.channel is None else f"{one.row.audio} {one.row.channel}",
        "tgt_text": lambda one: one.row.tgt_text,
        "src_text": lambda one: one.row.src_text,
        "languages": lambda one: _codes(one.source_lang, one.target_lang),
    }
    if any(task for _, _, task in utterances.counts):
        columns["task"] = lambda one: one.row.task
    if utterances.has_asks:
        columns["asks"] = lambda one: one.row.asks
    if of_splits:
        columns["split"] = lambda one: one.split
    contents = {name: hashlib.sha256() for name in (*columns, "lengths")}
    written = None if utterances.has_asks else utterances.written(_WRITTEN)
    if written is None:
        every = iter(utterances)
        while block := list(islice(every, _BLOCK)):
            for name, value in columns.items():
                contents[name].update(_joined(map(_line, map(value, block))))
    else:
        # The same hashes without an object for each row, for millions of rows.
        for fields in written:
            for name, lines in zip(_WRITTEN, fields, strict=True):
                contents[name].update(lines)
        for name in columns.keys() - _WRITTEN:
            _update(contents[name].update, utterances.of_kinds(partial(_line_of, columns[name])))
    _update(contents["lengths"].update, map(_line, memoryview(seconds)))  # type: ignore[arg-type]
    return {name: content.hexdigest()[:16] for name, content in contents.items()}


def _update(update: Callable[[bytes], object], lines: Iterator[str]) -> None:
    while block := _joined(islice(lines, _BLOCK)):
        update(block)


def _joined(lines: Iterable[str]) -> bytes:
    return "".join(lines).encode()


def _line_of(value: Callable[[Utterance], object], one: Utterance) -> str:
    return _line(value(one))


def _line(value: object) -> str:
    """The value with a line end, which no field holds."""
    return f"{value}\n"


@cache
def _codes(source_lang: str, target_lang: str) -> tuple[str, str]:
    return language_code(source_lang), language_code(target_lang)


def without_rows(plan: object) -> object:
    return {key: value for key, value in plan.items() if key not in _ROWS} if isinstance(plan, Mapping) else plan


def same_step(plan: object, processes: int, now: Mapping[str, object]) -> str:
    """Advice that makes as many batches a step as in a checkpoint's plan; empty where no accumulation does, or none is
    needed.

    :param now: the current plan.
    """
    per_step = plan.get("batches_per_step") if isinstance(plan, Mapping) else None
    if not isinstance(per_step, int) or per_step % processes or per_step == now["batches_per_step"]:
        return ""
    return f": with {processes} processes trainer.grad_accumulation.num_batches={per_step // processes}"


def are_new_rows(found: Mapping[str, Any], now: Mapping[str, Any], *, accept: bool) -> bool:
    """
    :param found: the fingerprint in the checkpoint.
    :param now: the fingerprint of the current rows.
    :param accept: whether new rows are accepted.
    :raises UserError: the rows are new, and new rows are not accepted.
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
    # With more or fewer rows, all columns differ.
    columns = f" with other {', '.join(other)}" if before and found.get("clips") == now["clips"] else ""
    line = (
        f"resume: the checkpoint was written over other rows: {found.get('clips')} clips, "
        f"{found.get('seconds')} s; found {now['clips']} clips, {now['seconds']} s{columns}"
    )
    if not accept:
        raise UserError(f"{line}; expected the same manifests in the same order, or dataset.accept_new_rows=true")
    log.warning("{}; accepted (dataset.accept_new_rows), and a new epoch begins.", line)
    return True
