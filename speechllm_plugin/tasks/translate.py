"""Speech translation: the text is in another language than the speech."""

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
