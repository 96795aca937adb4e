"""Speech recognition: the text is in the language of the speech."""

from __future__ import annotations

from speechllm_plugin.tasks.api import Task, register

TRANSCRIBE = register(
    Task(
        name="transcribe",
        # arXiv 2409.17044, section 3.
        instruction="can you transcribe {source}?",
        names=("source",),
        writes_speech=True,
        scored_by="wer",
    )
)
