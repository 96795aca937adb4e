"""The languages and the transcript of a row of a manifest."""

from __future__ import annotations

from speechllm_plugin.tasks.api import task_named, task_of_row
from speechllm_tools.manifest.rows import Row


def languages_of(row: Row) -> tuple[str, str]:
    """The languages of speech and text."""
    source = row.get("src_lang") or "en"
    return source, row.get("tgt_lang") or source


def transcript_of(row: Row) -> str:
    """`src_text`, or `tgt_text` of a row to be transcribed; empty where the row has no transcript.

    :raises UserError: there is no such task.
    """
    if stated := row.get("task"):
        task_named(stated, f"{row.manifest}, line {row.line}, column 'task'")
    return task_of_row(*languages_of(row), stated).spoken(row.get("tgt_text"), row.get("src_text")) or ""
