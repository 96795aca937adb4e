"""Speech translation: what is said, in another language."""

from __future__ import annotations

from speechllm_plugin.tasks.api import Task, register

TRANSLATE = register(
    Task(
        name="translate",
        instruction="can you translate from {source} to {target}?",
        names=("source", "target"),
        writes_speech=False,
        scored_by="translation",
    )
)
