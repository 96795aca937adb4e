"""Spoken instructions, which the LLM answers (arXiv 2310.00230)."""

from __future__ import annotations

from speechllm_plugin.tasks.api import Task, register

ANSWER = register(
    Task(
        name="answer",
        # The speech is the whole instruction.
        instruction="<speech>",
        names=("source", "target"),
        writes_speech=False,
        scored_by="answers",
    )
)
