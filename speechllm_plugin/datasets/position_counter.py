"""The contract of what counts the LLM's positions that clips take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from speechllm_plugin.datasets.measured import Seconds
from speechllm_plugin.datasets.utterances import Utterance
from speechllm_plugin.files.columns.fields import Places


class PositionCounter(Protocol):
    def of_texts(self, clips: Iterable[Utterance], /) -> Places:
        """Positions of each clip's prompt, and of its target, `[2, clips]`."""

    def __call__(self, prompts: Places, targets: Places, seconds: Seconds, /) -> Places:
        """All positions of clips with these positions of their texts and these lengths, `[clips]`."""
