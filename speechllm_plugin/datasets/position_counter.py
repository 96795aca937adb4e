"""Who tells how many positions of the LLM clips take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from speechllm_plugin.datasets.measured import Seconds
from speechllm_plugin.datasets.utterances import Utterance
from speechllm_plugin.files.columns.fields import Places


class PositionCounter(Protocol):
    def of_texts(self, clips: Iterable[Utterance], /) -> Places:
        """Of each clip's prompt, and of what the LLM is to write, `[2, clips]`."""

    def __call__(self, prompts: Places, targets: Places, seconds: Seconds, /) -> Places:
        """Of clips with such texts and of such lengths, `[clips]`."""
